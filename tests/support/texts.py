"""Texts that tokenizers tend to get wrong."""

from __future__ import annotations

PROSE = (
    "The worker reads a checkpoint once, writes what it needs, and never looks back.",
    "Don't you think they'll say we've won? I'd rather they're certain; it's HERS, I'M SURE.",
    "def step(rows):\n    return [row * 2 for row in rows if row % 3 == 0]  # 1,234.50\n",
    "Der große Übermut, l'été naïf, año nuevo, smörgåsbord, Łódź, Việt Nam.",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم ١٢٣",
    "你好，世界。今天天气很好。こんにちは世界 안녕하세요 세계 १२३ नमस्ते दुनिया",
    "HelloWorld camelCase SCREAMING_SNAKE http://example.org/a//b?c=1&d=2 $5+3=8 `x` ^_^",
)
NASTY = (
    "",
    " ",
    "     ",
    "\n",
    "\r\n\r\n",
    "\t\tx\t y",
    " leading",
    "trailing ",
    "  two  spaces   three ",
    "a\n\n\n  b\n ",
    "0 1 12 123 1234 12345 3.14159 1,000,000 ½ ² Ⅷ",
    "don't DON'T I'll we'Re 'tis ' s 's",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 é e\u0301 ñ n\u0303",
    "漢字かな交じり文と한국어🙂mixed",
    "مرحبا\u200fبك 123 שלום",
    "\u00a0nbsp\u2003em\u3000ideographic\u200bzero",
    "\x00\x01\x1f\x7f\x85\ufeff\ufffd\ufffe\uffff",
    "\U0010ffff\U000e0001\U0001f1e6",
    "<s></s><unk><|im_start|>user\nhi<|im_end|> <0x41> [PAD]",
    "▁already ▁▁ marked ▁",
    "=====--------____    ++++\n\n\n\n",
    *PROSE,
)
