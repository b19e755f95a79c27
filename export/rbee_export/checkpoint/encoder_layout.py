"""How ``transformers`` lays each family of encoders out: its ``config.json``, and its names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.encoder_families import ENCODERS
from rbee_export.checkpoint.layout import Stored, split_name
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_OLD_SUFFIXES = {"weight": "gamma", "bias": "beta"}
"""What the first BERTs call the two parts of a norm."""


def read_encoder_config(file: Path, settings: Mapping[str, Any]) -> EncoderConfig:
    """Read a ``config.json`` whose ``model_type`` is one of :data:`ENCODERS`.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: Something it asks for is not known here.
    """
    kind = str(settings.get("model_type"))
    family = ENCODERS[kind]
    number, names = Numbers(str(file), settings), family.config
    if settings.get("is_decoder"):
        raise UnsupportedModel(f"{file.parent}: a {kind} that is a decoder is not supported")
    positions = settings.get("position_embedding_type", "absolute")
    if family.position_types and positions != "absolute":
        raise UnsupportedModel(
            f"{file.parent}: position embeddings {shown(positions)} are not supported for {kind}"
        )
    act = settings.get(names["activation"], "gelu")
    if not isinstance(act, str) or act not in family.activations:
        raise UnsupportedModel(
            f"{file.parent}: activation {shown(act)} is not supported for {kind}"
        )
    first = family.first_position
    if first is None:
        first = number.whole("pad_token_id", 1) + 1
    hidden, heads = number.whole(names["hidden"]), number.whole(names["heads"])
    context_length = number.positions(names["context"], family.context) - first
    if first < 0 or context_length < 1:
        raise CheckpointError(f"{file}: pad_token_id leaves no row of the position table")
    if heads < 1 or hidden < 1 or hidden % heads:
        raise CheckpointError(f"{file}: {hidden} cannot be cut into {heads} heads")
    plain = EncoderConfig(
        family=kind,
        layers=number.layers(names["layers"]),
        hidden=hidden,
        intermediate=_above_zero(number, names["intermediate"]),
        heads=heads,
        vocab=_above_zero(number, "vocab_size"),
        context_length=context_length,
        norm_epsilon=number.above(0, names["epsilon"], family.epsilon),
        activation=family.activations[act],
        first_position=first,
        token_types=int(family.token_types and number.whole("type_vocab_size", 2) > 0),
    )
    return family.knobs(plain, number)


def locate_in_encoder(name: str, c: EncoderConfig, stored: Collection[str]) -> Stored:
    """Return where the weight of a canonical name is kept, among the names that there are."""
    family = ENCODERS[c.family]
    layer, short, suffix = split_name(name)
    plain = family.names[short].format(layer)
    rows = _rows(short, c, family.names)
    suffixes = (suffix, _OLD_SUFFIXES[suffix]) if short.endswith("norm") else (suffix,)
    for stem in ("", family.stem):
        for ending in suffixes:
            if f"{stem}{plain}.{ending}" in stored:
                return Stored(f"{stem}{plain}.{ending}", rows)
    return Stored(f"{plain}.{suffix}", rows)


def _rows(short: str, c: EncoderConfig, names: Mapping[str, str]) -> slice | None:
    """Return which rows of a tensor are a weight's, by its short name; ``None`` for all."""
    if short == "positions":
        return slice(c.first_position, c.first_position + c.context_length)
    if short == "token_type":
        return slice(0, c.token_types)
    for width, sharing in ((c.hidden, ("q", "k", "v")), (c.intermediate, ("gate", "up"))):
        if short in sharing and len({names.get(other) for other in sharing}) == 1:
            first = sharing.index(short) * width
            return slice(first, first + width)
    return None


def _above_zero(number: Numbers, key: str) -> int:
    value = number.whole(key)
    if value < 1:
        raise CheckpointError(f"{number.source}: {key} is {value}")
    return value
