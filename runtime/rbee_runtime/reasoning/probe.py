"""Finding out how a model marks its reasoning: its chat template is given some to write down.

Many templates read no reasoning of a message, or leave it out of what was said before. There the
markers that most models have count as known if the vocabulary has tokens for them, or the template
names the one that ends it.

Messages of gpt-oss are in channels, of which its template names those of reasoning and answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rbee_runtime.errors import InvalidRequest
from rbee_runtime.reasoning.form import ReasoningForm

if TYPE_CHECKING:
    from rbee_runtime.tokenizer import Tokenizer

# Texts that no template has.
_ASKED: Final = "Zq what is asked"
_THOUGHT: Final = "Zq what is thought"
_SAID: Final = "Zq what is said"

_TAG: Final = re.compile(r"([<\[])([^\s<>\[\]/]{1,62}[>\]])\s*\Z")
_CHANNEL: Final = "<|channel|>{}<|message|>"
_THINKING: Final = _CHANNEL.format("analysis")
_ANSWERING: Final = _CHANNEL.format("final")
_USUAL: Final = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


def find_reasoning(tokenizer: Tokenizer) -> ReasoningForm | None:
    """Return how a model marks its reasoning; ``None`` if it has no chat template or knows none."""
    template = tokenizer.chat_template
    if template is None:
        return None
    if _THINKING in template and _ANSWERING in template:
        closing = f"<|end|><|start|>assistant{_ANSWERING}"
        names = (name for name in tokenizer.specials if name in _THINKING + closing)
        ids = frozenset(tokenizer.specials[name] for name in names)
        return ReasoningForm(_THINKING, closing, ids, _ANSWERING)
    markers = _written(tokenizer)
    for opening, closing in _USUAL:
        if markers is None and (closing in template or {opening, closing} <= set(tokenizer.added)):
            markers = opening, closing
    if markers is None:
        return None
    shown = (tokenizer.specials[one] for one in markers if one in tokenizer.specials)
    return ReasoningForm(*markers, frozenset(shown))


def _written(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Return the tag and its end that a template puts around reasoning."""
    answer = {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT}
    try:
        text = tokenizer.render_chat(
            [{"role": "user", "content": _ASKED}, answer], add_generation_prompt=False
        )
    except InvalidRequest:
        return None
    before, thought, after = text.partition(_THOUGHT)
    tag = _TAG.search(before)
    if not thought or tag is None:
        return None
    closing = f"{tag[1]}/{tag[2]}"
    between, said, _ = after.partition(_SAID)
    return (tag[1] + tag[2], closing) if said and between.strip() == closing else None
