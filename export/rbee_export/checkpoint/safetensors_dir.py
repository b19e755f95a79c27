"""A directory of safetensors, as model hubs lay it out, as a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import ml_dtypes
import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.config import DecoderConfig, Llama3Scaling, Rope
from rbee_export.errors import CheckpointError, UnsupportedModel

_OUTER = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
_INNER = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_LAYER_NAME = re.compile(r"layers\.(\d+)\.(\w+)")
_KINDS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """A weight in a floating-point type; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        shape: Outputs first.
        kind: ``F32``, ``F16`` or ``BF16``.
        read: Reads it as ``float32`` of :attr:`shape`.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], NDArray[np.float32]] = field(repr=False)

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        return self.read()

    def blocks(self) -> None:
        """Return ``None``: nothing here is quantised."""


@dataclass(frozen=True, slots=True)
class SafetensorsCheckpoint:
    """A safetensors directory; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`."""

    path: Path
    config: DecoderConfig
    shards: Mapping[str, Path] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    format: Literal["safetensors"] = "safetensors"
    quantized: Literal[False] = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the directory's configuration and its files' headers; weights stay on disk.

        Raises:
            CheckpointError: A file is missing or damaged.
            UnsupportedModel: The architecture is not known here.
        """
        settings = _read_json(path / "config.json")
        config = _config(path, settings)
        return cls(path, config, _shards(path), settings)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights, configuration and tokenizer."""
        named = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ]
        present = [self.path / name for name in named if (self.path / name).is_file()]
        return (*sorted(set(self.shards.values())), *present)

    def tensor(self, name: str) -> DenseTensor:
        """Return the weight with this canonical name."""
        stored = _stored_name(name)
        if stored not in self.shards:
            raise CheckpointError(f"{self.path}: tensor {stored} is missing")
        shard = self.shards[stored]
        with safe_open(shard, framework="np") as file:
            view = file.get_slice(stored)
            shape, kind = tuple(view.get_shape()), view.get_dtype()
        if kind not in _KINDS:
            raise UnsupportedModel(
                f"{shard}: tensor {stored} has type {kind}; supported are {', '.join(_KINDS)}"
            )
        return DenseTensor(shape, kind, lambda: _read(shard, stored, kind))

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer beside the weights."""
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{file}: missing; save the model's fast tokenizer into the directory"
            )
        try:
            text = file.read_text(encoding="utf-8")
            tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{file}: not a tokenizer ({error}); save it again") from error
        options = _read_json(self.path / "tokenizer_config.json", required=False)
        generation = _read_json(self.path / "generation_config.json", required=False)
        eos = generation.get("eos_token_id", self.settings.get("eos_token_id"))
        ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(type(end) is int for end in ends):
            raise CheckpointError(f"{self.path}: eos_token_id is neither an id nor a list of ids")
        bos = self.settings.get("bos_token_id")
        return TokenizerSource(
            tokenizer_json=text,
            bos_token_id=bos if isinstance(bos, int) else None,
            eos_token_ids=tuple(ends),
            chat_template=self._chat_template(options),
        )

    def _chat_template(self, options: Mapping[str, Any]) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return _read_text(file)
        template = options.get("chat_template")
        if isinstance(template, list):  # several named ones
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None


def _stored_name(name: str) -> str:
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return f"{_OUTER[name]}.weight"
    return f"model.layers.{match[1]}.{_INNER[match[2]]}.weight"


def _read(shard: Path, stored: str, kind: str) -> NDArray[np.float32]:
    with safe_open(shard, framework="np") as file:
        values = file.get_tensor(stored)
    if kind == "BF16" and values.dtype != ml_dtypes.bfloat16:
        values = values.view(ml_dtypes.bfloat16)
    return np.asarray(values).astype(np.float32)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{file}: not UTF-8 text ({error})") from error


def _read_json(file: Path, *, required: bool = True) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"{file}: missing; is this a model directory?") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return content


def _shards(path: Path) -> dict[str, Path]:
    """Map every tensor's stored name to the file that holds it."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(map(_is_file_name, named.values())):
            raise CheckpointError(
                f"{index}: weight_map must give a file name for each tensor; download it again"
            )
        files = sorted({path / name for name in named.values()})
    else:
        files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: no *.safetensors file in the directory")
    shards: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing, but named by {index.name}; download it again")
        try:
            with safe_open(file, framework="np") as opened:
                shards.update(dict.fromkeys(opened.keys(), file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file}: not a whole safetensors file ({error}); download it again"
            ) from error
    return shards


def _is_file_name(name: object) -> bool:
    """Return whether this names a file of the same directory."""
    return isinstance(name, str) and name == Path(name).name


def _config(path: Path, settings: Mapping[str, Any]) -> DecoderConfig:
    family = settings.get("model_type")
    if family not in ("llama", "mistral"):
        raise UnsupportedModel(
            f"{path}: model type {family!r} is not supported; llama and mistral are"
        )
    number = _Numbers(path / "config.json", settings)
    context_length = number.whole("max_position_embeddings", 2048)
    window = number.whole("sliding_window", context_length)
    if family == "mistral" and window < context_length:
        raise UnsupportedModel(f"{path}: sliding-window attention ({window}) is not supported")
    if settings.get("attention_bias") or settings.get("mlp_bias"):
        raise UnsupportedModel(f"{path}: projections with biases are not supported for {family}")
    if settings.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"{path}: activation {settings['hidden_act']!r} is not supported")
    heads, hidden = number.whole("num_attention_heads"), number.whole("hidden_size")
    return DecoderConfig(
        family="llama",
        layers=number.whole("num_hidden_layers"),
        hidden=hidden,
        intermediate=number.whole("intermediate_size"),
        heads=heads,
        kv_heads=number.whole("num_key_value_heads", heads),
        head_dim=number.whole("head_dim", hidden // max(heads, 1)),
        vocab=number.whole("vocab_size"),
        context_length=context_length,
        norm_epsilon=number.real("rms_norm_eps", 1e-6),
        rope=_rope(path, settings),
        tied_embedding=bool(settings.get("tie_word_embeddings", False)),
    )


def _rope(path: Path, settings: Mapping[str, Any]) -> Rope:
    file = path / "config.json"
    # Newer configurations nest theta among the parameters; older ones keep it outside.
    options = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(options, dict):
        raise CheckpointError(f"{file}: its rope parameters are not an object")
    number = _Numbers(file, options)
    theta = number.real("rope_theta", _Numbers(file, settings).real("rope_theta", 10000.0))
    kind = options.get("rope_type", options.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, number.real("factor"))
    if kind == "llama3":
        return Rope(
            theta,
            Llama3Scaling(
                factor=number.real("factor"),
                low_freq_factor=number.real("low_freq_factor"),
                high_freq_factor=number.real("high_freq_factor"),
                original_context=number.whole("original_max_position_embeddings"),
            ),
        )
    raise UnsupportedModel(f"{path}: rope scaling {kind!r} is not supported")


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Reads numbers out of a JSON object; ``null`` counts as missing."""

    file: Path
    settings: Mapping[str, Any]

    def real(self, key: str, default: float | None = None) -> float:
        value = self.settings.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.file}: {key} is missing or not a number")
        if not abs(value) < 2**53:  # beyond, and with infinity and NaN, nothing is exact
            raise CheckpointError(f"{self.file}: {key} is out of range")
        return float(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.real(key, default)
        if not value.is_integer():
            raise CheckpointError(f"{self.file}: {key} is not a whole number")
        return int(value)
