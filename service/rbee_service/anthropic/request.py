"""What clients of Anthropic's Messages API may ask for, which is no more than a chat may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rbee_runtime.constraint import JsonSchema
from rbee_runtime.errors import InvalidRequest
from rbee_service.anthropic.blocks import Texts
from rbee_service.anthropic.part import AnthropicPart, CachedPart
from rbee_service.anthropic.thinking import (
    AnthropicEffort,
    ShownThinking,
    Thinking,
    thinking_variables,
)
from rbee_service.anthropic.tools import (
    CustomTools,
    OpenChoice,
    ToolUseChoice,
    require_offered,
    to_chat_choice,
)
from rbee_service.anthropic.turns import ModelTurn, SystemTurn, Turns, to_messages
from rbee_service.completion_request import WHOLE, Fraction, StopString
from rbee_service.openai.formats import TextFormat
from rbee_service.openai.requests import ChatRequest

if TYPE_CHECKING:
    from rbee_service.model_loader import ChatTokenizer

_PROBE: Final = "A word."


class SchemaFormat(AnthropicPart):
    """JSON that a schema admits.

    Attributes:
        type: There is one kind.
        schema_: The schema. A keyword in it that cannot be enforced is refused.
    """

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]

    called: ClassVar[str] = "output_config.format"

    def constraint(self) -> JsonSchema | None:
        """Return the engine's form of it."""
        return JsonSchema(self.schema_, self.called)


class OutputConfig(AnthropicPart):
    """What an answer is like.

    Attributes:
        effort: How much the model is to put into it, where its chat template can be told.
        format: What it is held to; not beside tools that may be used.
    """

    effort: AnthropicEffort | None = None
    format: SchemaFormat | None = None


class ClearedThinking(AnthropicPart):
    """What is left out of what the model thought: nothing.

    Attributes:
        type: There is one kind.
        keep: As the chat template reads what it reads of it.
    """

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(AnthropicPart):
    """What is left out of what was said so far.

    Attributes:
        edits: How.
    """

    edits: Annotated[list[ClearedThinking], Field(max_length=16)] = Field(default_factory=list)


class RequestMetadata(AnthropicPart):
    """What a request says for its sender's own account.

    Attributes:
        user_id: Not looked at: who asks.
    """

    user_id: str | None = None


class CountRequest(CachedPart):
    """The body of ``POST /v1/messages/count_tokens``.

    Attributes:
        model: Must be the one that is served.
        messages: All that was said, thought and called so far; the last of it is the user's.
        system: What the model is told before.
        tools: What it may use.
        tool_choice: Whether it uses one, and which.
        thinking: Whether it is to think before it answers.
        output_config: What the answer is like.
        output_format: An older place for its ``format``.
        context_management: What is left out of what was said so far.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Turns
    system: Texts = ""
    tools: CustomTools = Field(default_factory=list)
    tool_choice: ToolUseChoice = Field(default_factory=lambda: OpenChoice(type="auto"))
    thinking: Thinking | None = None
    output_config: OutputConfig = Field(default_factory=OutputConfig)
    output_format: SchemaFormat | None = None
    context_management: ContextManagement | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        said = [turn for turn in self.messages if not isinstance(turn, SystemTurn)]
        if said and isinstance(said[-1], ModelTurn):
            message = "the last of messages must be the user's: no answer is continued"
            raise PydanticCustomError("messages", message)
        require_offered(self.tool_choice, self.tools)
        if self.output_format is not None and self.output_config.format is not None:
            message = "output_format is another name of output_config.format: send one of them"
            raise PydanticCustomError("output_format", message)
        if self.held_to is not None and self.tools and self.tool_choice.type != "none":
            message = "output_config.format is served with tools only where tool_choice is none"
            raise PydanticCustomError("output_config", message)
        return self

    @property
    def held_to(self) -> SchemaFormat | None:
        """What an answer is held to."""
        return self.output_config.format or self.output_format

    @property
    def shows_thinking(self) -> bool:
        """Whether it is told what the model thought."""
        return not isinstance(self.thinking, ShownThinking) or self.thinking.display != "omitted"

    def to_chat(self, tokenizer: ChatTokenizer) -> ChatRequest:
        """Return the chat that is asked for the same.

        Args:
            tokenizer: Knows what the model's chat template reads.

        Raises:
            OpenAiError: The model cannot be told what it is to think.
        """
        later = any(isinstance(turn, SystemTurn) for turn in self.messages)
        return ChatRequest.model_construct(
            model=self.model,
            messages=to_messages(
                self.system, self.messages, keeps_system=later and _keeps_system(tokenizer)
            ),
            response_format=self.held_to or TextFormat.model_construct(type="text"),
            tools=[tool.to_chat() for tool in self.tools],
            tool_choice=to_chat_choice(self.tool_choice),
            parallel_tool_calls=not self.tool_choice.disable_parallel_tool_use,
            chat_template_kwargs=thinking_variables(
                tokenizer, self.thinking, self.output_config.effort
            ),
            **self._drawing(),
        )

    def _drawing(self) -> dict[str, Any]:
        """Return what a chat is asked with for the drawing of tokens."""
        return {}


class MessagesRequest(CountRequest):
    """The body of ``POST /v1/messages``.

    Attributes:
        max_tokens: Upper bound on new tokens.
        stop_sequences: Strings that end the answer.
        stream: Whether it is wanted as it comes.
        temperature: 0 is greedy.
        top_p: 1.0 is off.
        top_k: 0 is off.
        metadata: Not looked at.
        service_tier: There is one.
    """

    max_tokens: Annotated[int, Field(ge=1), WHOLE]
    stop_sequences: Annotated[list[StopString], Field(max_length=16)] = Field(default_factory=list)
    stream: bool = False
    temperature: Fraction = 1.0
    top_p: Fraction = 1.0
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] = "auto"

    def _drawing(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences,
        }


def _keeps_system(tokenizer: ChatTokenizer) -> bool:
    """Return whether a chat template writes down what the system says after the user."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "system", "content": _PROBE}]
    try:
        return _PROBE in tokenizer.render_chat([*chat, chat[0]])
    except InvalidRequest:
        return False
