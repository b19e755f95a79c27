"""The metadata of a GGUF file as plain Python values."""

from __future__ import annotations

from gguf import GGUFReader


def read_fields(reader: GGUFReader) -> dict[str, object]:
    """Return every metadata key of an open GGUF file with its value.

    Values are ``str``, ``int``, ``float`` or ``bool``, or a flat ``list`` of one of them. The
    reader's own ``GGUF.*`` entries (version and counts of the header) are left out.
    """
    return {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
