"""What clients of the Responses API may ask for, which is no more than a chat may."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from rbee_runtime.constraint import JsonSchema
from rbee_runtime.logprobs import MOST_ALTERNATIVES
from rbee_service.completion_request import WHOLE
from rbee_service.openai.bookkeeping import BookkeepingFields
from rbee_service.openai.formats import (
    BY_TYPE,
    AnyText,
    JsonObjectFormat,
    NamedSchema,
    TextFormat,
)
from rbee_service.openai.reasoning import Effort, TemplateArguments
from rbee_service.openai.requests import ChatRequest
from rbee_service.openai.responses.input import Input, to_messages
from rbee_service.openai.responses.tools import (
    ResponsesToolChoice,
    ResponsesTools,
    to_chat_choice,
)
from rbee_service.openai.sampling import SamplingFields
from rbee_service.openai.streaming import StreamFields
from rbee_service.openai.tools import require_distinct, require_known
from rbee_service.openai.unserved import Part

_FORMAT: Final = "text.format"
_LOGPROBS: Final = "message.output_text.logprobs"

Includable: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""What an answer may tell besides. All but the first is of what no answer here has."""


class FlatObjectFormat(JsonObjectFormat):
    """Any JSON object.

    Attributes:
        type: Says so.
    """

    called: ClassVar[str] = _FORMAT


class FlatSchemaFormat(NamedSchema):
    """JSON that a schema admits.

    Attributes:
        type: Says so.
    """

    type: Literal["json_schema"]

    def constraint(self) -> JsonSchema | None:
        """Return the engine's form of it."""
        return JsonSchema(self.schema_, _FORMAT)


class ResponseText(Part):
    """What the text of an answer is like.

    Attributes:
        format: What it is held to; not beside tools that may be called.
        verbosity: There is one.
    """

    format: Annotated[
        AnyText
        | Annotated[FlatObjectFormat, Tag("json-object")]
        | Annotated[FlatSchemaFormat, Tag("json-schema")],
        BY_TYPE,
    ] = Field(default_factory=lambda: TextFormat(type="text"))
    verbosity: Literal["medium"] = "medium"


class ResponseReasoning(Part):
    """How the model is to think before it answers.

    Attributes:
        effort: How much. Only where its chat template can be told: ``none`` switches it off.
        summary: Whether that is told in short: it is told in full, where there is any.
        generate_summary: The older name of that.
    """

    effort: Effort | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class _Chat(ChatRequest):
    """A chat in place of a request of the Responses API, whose parts have been validated."""

    effort_called: ClassVar[str] = "reasoning.effort"


class ResponsesRequest(StreamFields, SamplingFields, BookkeepingFields):
    """The body of ``POST /v1/responses``.

    Beyond OpenAI's, there are all that chats have for the drawing of tokens, and
    ``chat_template_kwargs``.

    Attributes:
        model: Must be the one that is served.
        input: What the user says, or all that was said, thought and called so far.
        instructions: A system message before it.
        max_output_tokens: Upper bound on new tokens; ``None`` for as many as the context holds.
        text: What the text of the answer is like.
        reasoning: How the model is to think before.
        chat_template_kwargs: What else the model's chat template may read, such as
            ``enable_thinking``. What it does not read makes no difference.
        tools: Functions that the model may call.
        tool_choice: Whether it calls one, and which.
        parallel_tool_calls: Whether it may call several at once.
        max_tool_calls: Not looked at: it counts calls of tools that OpenAI runs.
        include: What else is told, of what there is.
        top_logprobs: As many of the likeliest tokens are told in the place of each.
        truncation: What does not fit into the context is refused.
        client_metadata: Not looked at: what Codex says of itself.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    text: ResponseText = Field(default_factory=ResponseText)
    reasoning: ResponseReasoning = Field(default_factory=ResponseReasoning)
    chat_template_kwargs: TemplateArguments = Field(default_factory=dict)
    tools: ResponsesTools = Field(default_factory=list)
    tool_choice: ResponsesToolChoice = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: Annotated[int, Field(ge=1), WHOLE] | None = None
    include: Annotated[list[Includable], Field(max_length=16)] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES), WHOLE] = 0
    truncation: Literal["disabled"] = "disabled"
    client_metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema, with the rule that binds two members."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        told = {"type": "array", "contains": {"const": _LOGPROBS}}
        asked = {"required": ["include"], "properties": {"include": told}}
        without = {"properties": {"top_logprobs": {"enum": [0, None]}}}
        rules = handler.resolve_ref_schema(schema).setdefault("allOf", [])
        rules.append({"anyOf": [without, asked]})
        return schema

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.top_logprobs and not self.has_logprobs:
            message = f"top_logprobs is only allowed where include has {_LOGPROBS}"
            raise PydanticCustomError("top_logprobs", message)
        tools = require_distinct([tool.to_chat() for tool in self.tools])
        require_known(tools, to_chat_choice(self.tool_choice))
        shaped = not isinstance(self.text.format, TextFormat)
        if shaped and tools and self.tool_choice != "none":
            message = f"{_FORMAT} is served with tools only where tool_choice is none"
            raise PydanticCustomError("text", message)
        return self

    @property
    def has_logprobs(self) -> bool:
        """Whether it is told how likely the model held each token of the text."""
        return _LOGPROBS in self.include

    def to_chat(self) -> ChatRequest:
        """Return the chat that is asked for the same."""
        shared = {
            name: getattr(self, name)
            for fields in (StreamFields, SamplingFields, BookkeepingFields)
            for name in fields.model_fields
        }
        return _Chat.model_construct(
            **shared,
            model=self.model,
            messages=to_messages(self.instructions, self.input),
            max_completion_tokens=self.max_output_tokens,
            response_format=self.text.format,
            tools=[tool.to_chat() for tool in self.tools],
            tool_choice=to_chat_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls,
            logprobs=self.has_logprobs,
            top_logprobs=self.top_logprobs,
            reasoning_effort=self.reasoning.effort,
            chat_template_kwargs=self.chat_template_kwargs,
        )
