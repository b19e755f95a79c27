"""Which files of a model hub's repository an export needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from rbee_export.checkpoint.encoder_tokenizer import VOCABULARY
from rbee_export.checkpoint.model_directory import BESIDE, choose_weights
from rbee_export.checkpoint.sentence_modules import LIMITS, MODULES, PROMPTS
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SETTINGS = re.compile(r"[^/]*(Pooling|Dense)/config\.json")
_DENSE = re.compile(r"(?P<folder>[^/]*Dense)/[^/]+")
_NO_MODEL = ("mmproj", "imatrix")
"""What GGUF files begin with that hold no language model."""

_SHOWN = 12


def model_files(source: str, names: Collection[str]) -> tuple[str, ...]:
    """Return the files of a safetensors model, but for the shards that its index names.

    Weights under a second name, as in ``consolidated.safetensors``, are left where they are, and so
    is everything that could hold code.

    Args:
        source: What to call the repository in an error.
        names: All its files.

    Raises:
        CheckpointError: It holds no model in safetensors.
        UnsupportedModel: It does, in another layout than that of ``transformers``.
    """
    top = sorted(name for name in names if "/" not in name)
    if "config.json" not in top:
        why = " (an adapter: merge it into its model)" if "adapter_config.json" in top else ""
        raise CheckpointError(f"{source}: has no config.json{why}; name a whole model")
    if not any(name.endswith((".safetensors", ".safetensors.index.json")) for name in top):
        raise CheckpointError(
            f"{source}: has neither *.safetensors nor *.gguf; pickles (*.bin, *.pt) are never "
            "loaded: convert it to safetensors"
        )
    weights = choose_weights(top)
    if not weights:
        raise UnsupportedModel(
            f"{source}: holds its weights as consolidated.safetensors only; name a repository "
            "that has them as model.safetensors"
        )
    tokenized = any(name in top for name in ("tokenizer.json", "tokenizer.model"))
    beside = BESIDE if tokenized else (*BESIDE, VOCABULARY)
    return (*(name for name in beside if name in top), *_modules(names), *weights)


def _modules(names: Collection[str]) -> list[str]:
    """Return the files that sentence-transformers has beside a model's, where it lists modules."""
    if MODULES not in names:
        return []
    own = [name for name in (MODULES, PROMPTS, LIMITS) if name in names]
    own += sorted(name for name in names if _SETTINGS.fullmatch(name))
    for folder in sorted({found["folder"] for found in map(_DENSE.fullmatch, names) if found}):
        inside = [name.rpartition("/")[2] for name in names if name.startswith(f"{folder}/")]
        own += [f"{folder}/{name}" for name in choose_weights(inside)]
    return own


def gguf_files(source: str, names: Iterable[str], wanted: str | None) -> tuple[str, ...]:
    """Return the GGUF file that is meant, with all its parts where it is split.

    Args:
        source: What to call the repository in an error.
        names: All its files.
        wanted: A file, or a word of just one file's name, such as ``Q4_K_M``; ``None`` for the only
            one there is.

    Raises:
        ExportError: None or several match; the choices are listed.
        CheckpointError: Parts are missing.
    """
    models = sorted(name for name in names if name.lower().endswith(".gguf"))
    if wanted in models:
        return _with_parts(source, wanted, models)
    firsts = [name for name in models if _is_first(name)]
    if wanted is None:
        found = firsts
    elif wanted.lower().endswith(".gguf"):
        found = []
    else:
        # A longer label may begin with a shorter one: Q4_K_M with Q4_K. So `_` ends no word.
        label = re.compile(rf"(?:^|[-._/ ]){re.escape(wanted)}(?=[-./ ])", re.IGNORECASE)
        found = [name for name in firsts if label.search(name)]
    if len(found) == 1:
        return _with_parts(source, found[0], models)
    if not firsts:
        raise ExportError(f"{source}: has no .gguf file")
    choices = found or firsts
    listed = ", ".join(choices[:_SHOWN])
    if len(choices) > _SHOWN:
        listed += f" and {len(choices) - _SHOWN} more"
    if wanted is None:
        problem = "holds several models"
    else:
        problem = f"has {'several files' if found else 'no file'} {wanted}"
    raise ExportError(f"{source}: {problem}; name one of {listed} after a colon")


def _is_first(name: str) -> bool:
    """Return whether this is a language model's file, and of those split into parts the first."""
    part = _PART.fullmatch(name)
    base = PurePosixPath(name).name.lower()
    return (part is None or int(part["number"]) == 1) and not base.startswith(_NO_MODEL)


def _with_parts(source: str, name: str, models: Collection[str]) -> tuple[str, ...]:
    part = _PART.fullmatch(name)
    if part is None:
        return (name,)
    count = int(part["count"])
    if count > len(models):
        raise CheckpointError(f"{source}: {name} has {count} parts, and some are not there")
    parts = [f"{part['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    missing = [other for other in parts if other not in models]
    if missing or not parts:
        raise CheckpointError(
            f"{source}: {missing[0] if missing else name}: not there, but {name} needs it"
        )
    return tuple(parts)
