"""The tokenizer of all tiny checkpoints: byte-level, so that it restores any text."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 384
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = (
    "The worker reads a checkpoint once, writes what it needs, and never looks back.",
    "Once upon a time there was a hive, and in the hive there was a queen with many workers.",
    "A token in, a token out: the cache grows by one position and the stream by one event.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. El niño comió piñas.",
    "你好，世界。こんにちは世界 🙂🙂 👩‍👩‍👧‍👦 naïve café 1,234.50",
    "def step(rows):\n    return [row * 2 for row in rows if row % 3 == 0]\n",
)


@functools.cache
def tokenizer_json() -> str:
    """Return a byte-level BPE tokenizer of ``VOCAB`` tokens that restores any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    text: str = tokenizer.to_str()
    return text


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files beside a checkpoint."""
    (directory / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    options = {"chat_template": CHAT_TEMPLATE, "eos_token": SPECIALS[IM_END]}
    (directory / "tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")


def tokenizer_metadata() -> dict[str, object]:
    """Return the tokenizer as a GGUF file's metadata has it."""
    model = json.loads(tokenizer_json())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": IM_START,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
