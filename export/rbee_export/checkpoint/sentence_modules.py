"""What sentence-transformers says of an encoder: which vector it makes of a text, and of which.

Its directories hold a list of modules, ``modules.json``: the encoder, how its vectors are pooled,
layers that the outcome goes through, and whether it is normalised. Directories without the list are
what that library makes of them as well: the mean of all vectors, as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.json_file import read_json, read_text
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.own_file import LARGEST_SETTINGS
from rbee_export.checkpoint.pooling import PoolingKind, SentencePooling
from rbee_export.checkpoint.sentence_dense import dense_files, read_dense
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
LIMITS = "sentence_bert_config.json"
"""Files of sentence-transformers beside those of transformers; poolings are in a folder each."""

_LONGEST_PROMPT = 4096

_POOLINGS: Mapping[str, PoolingKind] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """How texts become vectors, besides the encoder itself.

    Attributes:
        transformer: The directory of the encoder.
        pooling: What becomes of its vectors.
        prompt: What is put before every text.
        prompts: What may be put there instead, by name; empty where all of them are.
        longest: Tokens of a text at most, where that is said.
        lowercase: Texts are put into lower case first.
        strips: Spaces at either end of a text are taken away first.
        files: The files that say so.
    """

    transformer: Path
    pooling: SentencePooling = field(default_factory=SentencePooling)
    prompt: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    longest: int | None = None
    lowercase: bool = False
    strips: bool = False
    files: tuple[Path, ...] = ()


def read_modules(path: Path) -> SentenceModules:
    """Read the files of sentence-transformers in a directory, if there are any.

    Raises:
        CheckpointError: A file is damaged, or says what cannot be.
        UnsupportedModel: Vectors are made by something that is not known here.
    """
    file = path / MODULES
    if not file.is_file():
        return SentenceModules(path)
    folders = module_folders(file)
    kinds = [kind for kind, _ in folders]
    inner = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(inner) <= {"Dense"}:
        raise UnsupportedModel(
            f"{file}: the modules {shown(' → '.join(kinds))} are not supported; "
            "Transformer → Pooling is, and → Dense and → Normalize after it"
        )
    layers = tuple(read_dense(folder) for kind, folder in folders if kind == "Dense")
    transformer, pooled = folders[0][1], folders[1][1] / "config.json"
    limits, prompts = transformer / LIMITS, path / PROMPTS
    pooling = read_json(pooled)
    limit = read_json(limits, required=False)
    named = read_json(prompts, required=False)
    prompt = _prompt(prompts, named)
    if prompt and pooling.get("include_prompt") is False:
        raise UnsupportedModel(
            f"{pooled}: include_prompt is false; pooling without the prompt is not supported"
        )
    longest = limit.get("max_seq_length")
    return SentenceModules(
        transformer=transformer,
        pooling=SentencePooling(_pooling(pooled, pooling), kinds[-1] == "Normalize", layers),
        prompt=prompt,
        prompts=_prompts(prompts, named),
        longest=None
        if longest is None
        else Numbers(str(limits), limit).positions("max_seq_length"),
        lowercase=limit.get("do_lower_case") is True,
        strips=True,
        files=(
            *(found for found in (file, prompts, limits, pooled) if found.is_file()),
            *(found for layer in layers for found in dense_files(layer)),
        ),
    )


def module_folders(file: Path) -> list[tuple[str, Path]]:
    """Return the modules that a list names: their kind and where they are.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        modules = json.loads(read_text(file, LARGEST_SETTINGS))
        listed = [(each["type"].rpartition(".")[2], each["path"]) for each in modules]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: no list of modules with type and path; download it again"
        ) from error
    for _, folder in listed:
        if not isinstance(folder, str) or folder not in ("", Path(folder).name):
            raise CheckpointError(f"{file}: names {shown(folder)}, which is no folder of its own")
    return [(kind, file.parent / folder) for kind, folder in listed]


def _pooling(file: Path, settings: Mapping[str, Any]) -> PoolingKind:
    """Return the one pooling that is turned on."""
    named = settings.get("pooling_mode")
    modes = [named] if named is not None else []
    modes += [mode for key, mode in _POOLING_KEYS.items() if settings.get(key) is True]
    if not modes:
        raise CheckpointError(f"{file}: turns no pooling on")
    mode = modes[0]
    if len(modes) > 1 or not isinstance(mode, str) or mode not in _POOLINGS:
        told = " with ".join(str(mode) for mode in modes)
        raise UnsupportedModel(
            f"{file}: pooling by {shown(told)} is not supported; one of {', '.join(_POOLINGS)} is"
        )
    return _POOLINGS[mode]


def _prompt(file: Path, settings: Mapping[str, Any]) -> str:
    """Return what is put before every text, empty for nothing."""
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str) or len(prompt) > _LONGEST_PROMPT:
        raise CheckpointError(
            f"{file}: default_prompt_name is {shown(name)}, which is none of its prompts"
        )
    return prompt


def _prompts(file: Path, settings: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the prompts that have names, if any of them is one."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str) and len(prompt) <= _LONGEST_PROMPT for prompt in prompts.values()
    ):
        raise CheckpointError(f"{file}: prompts does not give a text to each name")
    return prompts if any(prompts.values()) else {}
