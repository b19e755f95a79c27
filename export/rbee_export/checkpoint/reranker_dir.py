"""A directory with an encoder that scores pairs of texts, as model hubs lay it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.encoder_dir import EncoderCheckpoint
from rbee_export.checkpoint.encoder_layout import read_encoder_config
from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.model_directory import beside, read_shards
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.ranking_head import CLASSIFIER, HEADS, ScoreActivation, read_head
from rbee_export.checkpoint.sentence_modules import (
    LIMITS,
    MODULES,
    PROMPTS,
    SentenceModules,
    module_folders,
)
from rbee_export.errors import CheckpointError, UnsupportedModel, shown
from rbee_runtime.artifact import Scoring

_ACTIVATIONS: Mapping[str, ScoreActivation] = {"Sigmoid": "sigmoid", "Identity": "identity"}
_OF_DECODERS = "LogitScore"
_LONGEST_NAME = 100


class RerankerCheckpoint(EncoderCheckpoint):
    """A directory with an encoder and what makes scores of its vectors."""

    __slots__ = ()

    @property
    def scoring(self) -> Scoring:
        """What a score is."""
        pooling = self.modules.pooling
        return Scoring(
            pooling="mean" if pooling.kind == "mean" else "cls",
            activation="sigmoid" if pooling.layers[-1].activation == "sigmoid" else "identity",
            token_types=self.config.token_types > 1,
        )

    def tokenizer(self) -> str:
        """Return the tokenizer, serialised.

        Raises:
            CheckpointError: There is none, it is damaged, or a pair may have no tokens of its own.
            UnsupportedModel: It does not know of pairs.
        """
        serialised = super().tokenizer()
        tokenizer, path, c = Tokenizer.from_str(serialised), self.modules.transformer, self.config
        around = tokenizer.num_special_tokens_to_add(is_pair=True)
        if not around:
            raise UnsupportedModel(
                f"{path}: its tokenizer puts nothing between two texts; save the model's "
                "tokenizer.json with it"
            )
        if around + 2 > c.context_length:
            raise CheckpointError(f"{path}: {c.context_length} tokens leave no room for two texts")
        types = max(tokenizer.encode("a", "a").type_ids, default=0) + 1
        if 1 < c.token_types < types:
            raise UnsupportedModel(
                f"{path}: its tokenizer has {types} types of tokens, the model {c.token_types}"
            )
        return serialised


def is_reranker(path: Path) -> bool:
    """Return whether a directory holds a classifier of texts, as far as its settings say, be it one
    that can be served or not.

    Raises:
        CheckpointError: They are damaged.
    """
    if not (path / "config.json").is_file():
        return False
    modules = _modules(path)
    if _OF_DECODERS in modules:
        return True
    return modules in ([], ["Transformer"]) and _classifier(_settings(path)) is not None


def open_reranker(path: Path, name: str | None = None) -> RerankerCheckpoint:
    """Read a directory's configuration and its files' headers; weights stay on disk.

    Args:
        path: The directory.
        name: What to call it; ``None`` for its own name.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModel: It is no reranker, or does what is not known here.
    """
    beside(path)  # before anything is read
    settings = _settings(path)
    kind, architecture = settings.get("model_type"), _classifier(settings)
    if architecture is None or not isinstance(kind, str) or kind not in HEADS:
        raise UnsupportedModel(
            f"{path}: {architecture or shown(kind)} is no reranker that is supported: encoders "
            f"with one label are ({', '.join(HEADS)}), decoders are not"
        )
    labels = _labels(settings)
    if labels != 1:
        raise UnsupportedModel(
            f"{path}: {architecture} with {labels} labels classifies texts; rerankers have one"
        )
    file = path / "config.json"
    named = read_json(path / PROMPTS, required=False)
    if named.get("default_prompt_name") is not None:
        raise UnsupportedModel(f"{path / PROMPTS}: prompts of rerankers are not supported")
    config = read_encoder_config(file, settings)
    options = read_json(path / "tokenizer_config.json", required=False)
    limits = read_json(path / LIMITS, required=False)
    config = replace(
        config,
        context_length=min(config.context_length, *_longest(path / LIMITS, limits, options)),
        token_types=_token_types(config, Numbers(str(file), settings), options),
    )
    modules = SentenceModules(
        transformer=path,
        pooling=read_head(file, settings, config, _activation(path, settings, named)),
        lowercase=limits.get("do_lower_case") is True,
        files=tuple(f for f in (path / n for n in (MODULES, PROMPTS, LIMITS)) if f.is_file()),
    )
    shards = read_shards(path)
    return RerankerCheckpoint(name or path.resolve().name, config, modules, shards, settings)


def _settings(path: Path) -> Mapping[str, Any]:
    return read_json(path / "config.json")


def _modules(path: Path) -> list[str]:
    """Return what sentence-transformers has a model consist of, where it says so."""
    file = path / MODULES
    return [kind for kind, _ in module_folders(file)] if file.is_file() else []


def _classifier(settings: Mapping[str, Any]) -> str | None:
    """Return the architecture that classifies texts, if a model has one."""
    named = settings.get("architectures")
    for architecture in named if isinstance(named, list) else []:
        if not isinstance(architecture, str) or not architecture.endswith(CLASSIFIER):
            continue
        if architecture.isidentifier() and len(architecture) < _LONGEST_NAME:
            return architecture
    return None


def _labels(settings: Mapping[str, Any]) -> int:
    """Return how many numbers a classifier gives, counted as transformers does."""
    named = settings.get("id2label")
    if isinstance(named, dict):
        return len(named)
    count = settings.get("num_labels")
    return count if isinstance(count, int) else 2


def _longest(file: Path, limits: Mapping[str, Any], options: Mapping[str, Any]) -> list[int]:
    """Return the most tokens of a pair, by each of the files that say so."""
    found = []
    if limits.get("max_seq_length") is not None:
        found.append(Numbers(str(file), limits).positions("max_seq_length"))
    most = options.get("model_max_length")
    # Where it does not matter, transformers writes a number of thirty digits.
    if type(most) is int and 0 < most < 1 << 31:
        found.append(most)
    return found or [1 << 31]


def _token_types(c: EncoderConfig, number: Numbers, options: Mapping[str, Any]) -> int:
    """Return how many types of tokens count: transformers passes them on where the tokenizer says
    that the model reads them, which it does by default.
    """
    if not c.token_types:
        return 0
    read = options.get("model_input_names")
    told = not isinstance(read, list) or "token_type_ids" in read
    return min(number.whole("type_vocab_size", 2), 2) if told else 1


def _activation(
    path: Path, settings: Mapping[str, Any], named: Mapping[str, Any]
) -> ScoreActivation:
    """Return what a score goes through last, as sentence-transformers reads it."""
    inner = settings.get("sentence_transformers")
    inner = inner if isinstance(inner, dict) else {}
    said = (
        named.get("activation_fn")
        or inner.get("activation_fn")
        or settings.get("sbert_ce_default_activation_function")
        or "Sigmoid"
    )
    kind = said.rpartition(".")[2] if isinstance(said, str) else ""
    if kind not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{path}: the activation {shown(said)} of scores is not supported; "
            f"{' and '.join(_ACTIVATIONS)} are"
        )
    return _ACTIVATIONS[kind]
