"""Chats as their model reads them."""

from __future__ import annotations

import asyncio

from rbee_runtime.errors import RuntimeFault
from rbee_service.faults import refusal
from rbee_service.http.inferences import Inferences
from rbee_service.openai.prompt import WrittenChat, write_chat
from rbee_service.openai.requests import ChatRequest


async def written_chat(inferences: Inferences, body: ChatRequest) -> WrittenChat:
    """Return the prompt of a chat, without holding up others: a template may take its time.

    Raises:
        InvalidFields: The model has no chat template, or it rejects the messages.
        OpenAiError: The model cannot be told how much to think.
    """
    try:
        return await asyncio.to_thread(write_chat, inferences.loaded.tokenizer, body)
    except RuntimeFault as fault:
        raise refusal(fault) from fault
