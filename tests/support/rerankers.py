"""What ``transformers`` makes of a query beside each of some documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEAD = "AutoModelForSequenceClassification"
QUERY = "the worker reads a token"
DOCUMENTS = (
    "A token in, a token out",
    "Once upon a time there was a hive, and in the hive a queen",
    "",
    "the queen " * 200,
    "x",
)


def logits(
    checkpoint: Path, query: str, documents: Sequence[str], longest: int
) -> NDArray[np.float32]:
    """Return the model's only logit of each pair, ``float32[documents]``; documents are cut."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, attn_implementation="eager"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    found = []
    with torch.inference_mode():
        for document in documents:
            # In lists, for an empty document is otherwise taken for none.
            pair = tokenizer(
                [query],
                [document],
                truncation="only_second",
                max_length=longest,
                return_tensors="pt",
            )
            if getattr(model.config, "type_vocab_size", 0) == 0:
                pair.pop("token_type_ids", None)
            found.append(float(model(**pair).logits[0, 0]))
    return np.array(found, np.float32)


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``1 / (1 + exp(-x))``."""
    y: NDArray[np.float32] = 1 / (1 + np.exp(-x))
    return y
