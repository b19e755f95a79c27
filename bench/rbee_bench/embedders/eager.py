"""Eager torch: transformers' model class, its tokenizer, and a few lines that pool."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors, in_batches

_BATCH = 16
"""Texts at a time, as fast as any of 4 to 32 when tried: more are padded more."""


class EagerEmbedder:
    """What a model's card tells people to write.

    In fp32 it is the reference: what the weights mean, by the library they were published with.
    In bf16 its weights are that, too: on a processor with AMX faster than autocast, which makes
    them so at every use.

    Attributes:
        version: See :class:`~rbee_bench.embedders.embedder.Embedder`.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self.version = f"torch {self._torch.__version__}, transformers {transformers.__version__}"
        self._torch.set_num_threads(spec.threads)
        dtype = self._torch.bfloat16 if spec.arithmetic == "bf16" else self._torch.float32
        self._model = transformers.AutoModel.from_pretrained(spec.encoder, dtype=dtype).eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(spec.encoder)
        self._spec = spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See :class:`~rbee_bench.embedders.embedder.Embedder`."""
        with self._torch.inference_mode():
            return in_batches([self._spec.prompt + text for text in texts], _BATCH, self._together)

    def _together(self, texts: list[str]) -> Vectors:
        torch = self._torch
        tokens = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self._spec.longest,
            return_tensors="pt",
        )
        states = self._model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"]
        match self._spec.pooling:
            case "cls":
                pooled = states[:, 0]
            case "last":
                pooled = states[torch.arange(len(texts)), mask.sum(1) - 1]
            case _:
                pooled = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        if self._spec.normalized:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        vectors: Vectors = pooled.numpy()
        return vectors
