"""The tokenizer of a model directory, with what chats need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.json_file import read_json
from rbee_export.errors import CheckpointError


def read_directory_tokenizer(path: Path, settings: Mapping[str, Any]) -> TokenizerSource:
    """Return the tokenizer of a model directory.

    Args:
        path: The directory.
        settings: The content of its ``config.json``.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"{file}: missing; save the model's fast tokenizer into the directory"
        )
    try:
        text = file.read_text(encoding="utf-8")
        tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{file}: not a tokenizer ({error}); save it again") from error
    options = read_json(path / "tokenizer_config.json", required=False)
    generation = read_json(path / "generation_config.json", required=False)
    eos = generation.get("eos_token_id", settings.get("eos_token_id"))
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(end) is int for end in ends):
        raise CheckpointError(f"{path}: eos_token_id is neither an id nor a list of ids")
    bos = settings.get("bos_token_id")
    return TokenizerSource(
        tokenizer_json=text,
        bos_token_id=bos if isinstance(bos, int) else None,
        eos_token_ids=tuple(ends),
        chat_template=_chat_template(path, options),
    )


def _chat_template(path: Path, options: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read_text(file)
    template = options.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{file}: not UTF-8 text ({error})") from error
