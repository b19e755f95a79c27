"""Weights that others have quantised into tensors of their own, which are not read here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

_MADE_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "qweight": "AWQ or GPTQ",
        "weight_packed": "compressed-tensors",
        "weight.absmax": "bitsandbytes",
        "SCB": "bitsandbytes",
    }
)
"""By what stands in the place of ``weight``, or beside it."""

REMEDY: Final = "export the model that it was made of, or a GGUF file"


def quantised_by(name: str, stored: Collection[str]) -> str | None:
    """Return what has quantised a weight, by the tensors there are; ``None`` if nothing known.

    Args:
        name: The name it would have, which ends with ``.weight``.
        stored: Names of all tensors.
    """
    stem = name.removesuffix("weight")
    return next((who for end, who in _MADE_BY.items() if f"{stem}{end}" in stored), None)
