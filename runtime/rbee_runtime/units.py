"""Numbers of bytes, as people read them."""

from __future__ import annotations


def human_size(nbytes: int) -> str:
    """Return a number of bytes in a unit that suits it, of powers of ten: ``1.25 GB``."""
    if nbytes < 1_000_000:
        return f"{nbytes / 1e3:.1f} kB"
    if nbytes < 1_000_000_000:
        return f"{nbytes / 1e6:.1f} MB"
    # In whole numbers: what a manifest claims may be beyond what a float holds.
    hundredths = (nbytes + 5_000_000) // 10_000_000
    return f"{hundredths // 100}.{hundredths % 100:02} GB"
