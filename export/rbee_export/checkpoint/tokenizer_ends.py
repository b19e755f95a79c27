"""Which tokens end a completion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

# These end a document wherever they stand; a checkpoint need not say so.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")
# These end a turn in some models and separate parts of one in others.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|return|>")
# Where messages are in channels, as gpt-oss has them, an answer is several, each with an end.
_CHANNEL, _MESSAGE_END, _CALL = "<|channel|>", "<|end|>", "<|call|>"


def end_ids(
    named: Iterable[int | None],
    find: Callable[[str], int | None],
    mentioned: Collection[int],
    chat_template: str,
) -> tuple[int, ...]:
    """Return the ids that end a completion: those named so, then those evidently used so.

    Args:
        named: Ids that the checkpoint gives this role.
        find: Returns the id of a token, ``None`` where the vocabulary lacks it.
        mentioned: Ids to which the checkpoint gives any role.
        chat_template: Jinja source; a turn's end that it writes ends the answer, too.
    """
    ends = [index for index in named if index is not None]
    for text in (*_DOCUMENT_ENDS, *_TURN_ENDS):
        index = find(text)
        if index is None:
            continue
        used_so = index in mentioned or text in chat_template
        if used_so or text in _DOCUMENT_ENDS:
            ends.append(index)
    call = find(_CALL)
    if call is not None and find(_CHANNEL) is not None:
        ends = [index for index in (*ends, call) if index != find(_MESSAGE_END)]
    return tuple(dict.fromkeys(ends))
