"""The small files beside a tokenizer in a checkpoint directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer

from rbee_export.checkpoint.json_file import read_json
from rbee_export.errors import CheckpointError, shown

_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """The small files beside a tokenizer.

    Attributes:
        options: ``tokenizer_config.json``, over ``special_tokens_map.json``.
        added: Content and properties of added tokens, by id.
        settings: ``generation_config.json`` and ``config.json``, with the latter's
            ``text_config``; earlier ones first, each with its name.
        vocab_size: How many tokens the model has, where the configuration says so.
    """

    options: Mapping[str, Any]
    added: Mapping[int, AddedToken]
    settings: tuple[tuple[Path, Mapping[str, Any]], ...]
    vocab_size: int | None

    @classmethod
    def read(cls, path: Path, config: Mapping[str, Any]) -> Self:
        """Read the files of a directory, whose ``config.json`` has been read before.

        Raises:
            CheckpointError: A file is no such file.
        """
        named = read_json(path / "special_tokens_map.json", required=False)
        options = {**named, **read_json(path / "tokenizer_config.json", required=False)}
        nested = config.get("text_config")
        configs = [config, nested] if isinstance(nested, Mapping) else [config]
        generation = path / "generation_config.json"
        sizes = [found.get("vocab_size") for found in configs]
        return cls(
            options,
            dict(sorted(_added_tokens(path, options), key=itemgetter(0))),
            (
                (generation, read_json(generation, required=False)),
                *((path / "config.json", found) for found in configs),
            ),
            next((size for size in sizes if type(size) is int), None),
        )

    def option(self, name: str) -> bool | None:
        """Return a truth value of the tokenizer's options, ``None`` where it is not given."""
        value = self.options.get(name)
        return value if isinstance(value, bool) else None

    def role(self, name: str) -> str | None:
        """Return the token that has a role, e.g. ``bos_token``, where one does."""
        value = self.options.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        return content if isinstance(content, str) and content else None

    def special(self) -> set[str]:
        """Return the tokens that are named as special, whether or not they exist."""
        named: set[str | None] = {self.role(name) for name in _ROLES}
        others = self.options.get("additional_special_tokens")
        for other in others if isinstance(others, list) else []:
            content = other.get("content") if isinstance(other, dict) else other
            named.add(content if isinstance(content, str) else None)
        return {name for name in named if name}

    def ids(self, tokenizer: Tokenizer, name: str) -> Iterator[int]:
        """Yield the ids that the configurations give to a role.

        Raises:
            CheckpointError: One is no id of the tokenizer.
        """
        for file, settings in self.settings:
            value = settings.get(name)
            indices: list[Any] = value if isinstance(value, list) else [value]
            for index in indices:
                if index is None:
                    continue
                is_number = isinstance(index, int) and not isinstance(index, bool)
                if (
                    not is_number
                    or not 0 <= index < 1 << 32
                    or tokenizer.id_to_token(index) is None
                ):
                    size = tokenizer.get_vocab_size()
                    raise CheckpointError(
                        f"{file}: {name} {shown(index)} is none of the tokenizer's {size} tokens"
                    )
                yield index


def _added_tokens(path: Path, options: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    for content, index in read_json(path / "added_tokens.json", required=False).items():
        if type(index) is not int or index < 0 or not content:
            raise CheckpointError(f"{path / 'added_tokens.json'}: {shown(content)} has no id")
        yield index, AddedToken(content, normalized=False)
    entries = options.get("added_tokens_decoder") or {}
    file = path / "tokenizer_config.json"
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file}: added_tokens_decoder is not an object")
    for number, entry in entries.items():
        text = entry.get("content") if isinstance(entry, dict) else None
        if not number.isdecimal() or len(number) > 10 or not isinstance(text, str) or not text:
            raise CheckpointError(f"{file}: added_tokens_decoder holds no token at {shown(number)}")
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        given = {flag: entry[flag] for flag in flags if isinstance(entry.get(flag), bool)}
        yield int(number), AddedToken(text, **given)
