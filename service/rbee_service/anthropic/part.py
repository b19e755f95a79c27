"""What clients of Anthropic's API may not ask for, and how they may name it all the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from pydantic import ConfigDict

from rbee_service.openai.unserved import NEVER, Part

_UNSERVED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "container": NEVER,
        "context_management": NEVER,
        "diagnostics": NEVER,
        "fallbacks": NEVER,
        "inference_geo": NEVER,
        "mcp_servers": [],
        "max_tokens": NEVER,
        "metadata": NEVER,
        "output_config": NEVER,
        "output_format": NEVER,
        "service_tier": NEVER,
        "speed": "standard",
        "stop_sequences": [],
        "stream": False,
        "temperature": NEVER,
        "thinking": NEVER,
        "thread": NEVER,
        "tool_choice": NEVER,
        "tools": [],
        "top_k": NEVER,
        "top_p": NEVER,
        # Of messages and their blocks:
        "citations": [],
        "toolset_name": NEVER,
    }
)


class AnthropicPart(Part):
    """A base of everything in a body: what is not known is refused, ``null`` means left out."""

    # It is imported when somebody asks, by a thread that holds up nobody, and is built then too.
    model_config = ConfigDict(defer_build=False)

    unserved: ClassVar[Mapping[str, Any]] = _UNSERVED


class CachedPart(AnthropicPart):
    """A base of what may end a beginning that is cached.

    Attributes:
        cache_control: Not looked at: whatever prompts begin with is cached, while there is room.
    """

    cache_control: dict[str, Any] | None = None
