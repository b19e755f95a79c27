"""Messages of a chat, as clients of the OpenAI API send them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from typing_extensions import TypedDict

from rbee_service.completion_request import WHOLE
from rbee_service.openai.unserved import Part

FunctionName: TypeAlias = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
_PersonName: TypeAlias = Annotated[str, Field(pattern=r"^[^\s<|\\/>]{1,64}$")]


class TextPart(TypedDict):
    """Some of the text of a message."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Literal["text"]
    text: str


def _one_text(content: Any) -> Any:
    """Return the text of a message's content, which may come in parts."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise PydanticCustomError("unsupported_part", "only parts of type text are served")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError("part", "a part of type text has a text and nothing else")
        texts.append(part["text"])
    return "".join(texts)


Content: TypeAlias = Annotated[
    str, BeforeValidator(_one_text, json_schema_input_type=str | list[TextPart])
]


def _known_role(role: Any) -> Any:
    if not isinstance(role, str) or role not in _TAGS:
        raise PydanticCustomError("role", "must be system, developer, user, assistant or tool")
    return role


class PlainMessage(Part):
    """What is said by anybody but the model.

    Attributes:
        role: Who said it; ``developer`` is the newer name of ``system``.
        content: What was said.
        name: Which of several of that role, for templates that read it.
    """

    role: Annotated[Literal["system", "developer", "user"], BeforeValidator(_known_role)]
    content: Content
    name: _PersonName | None = None

    def to_template(self) -> dict[str, Any]:
        """Return what a chat template reads."""
        role = "system" if self.role == "developer" else self.role
        told = {"role": role, "content": self.content}
        return told if self.name is None else {**told, "name": self.name}


def _object_in_json(text: str) -> str:
    try:
        found = json.loads(text or "{}")
        # Half of a surrogate pair may be escaped in JSON, and can be in no prompt.
        json.dumps(found, ensure_ascii=False).encode()
        whole = isinstance(found, dict)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise PydanticCustomError("arguments", "must be a JSON object, written as a string")
    return text


CallArguments: TypeAlias = Annotated[
    str,
    AfterValidator(_object_in_json),
    Field(json_schema_extra={"contentMediaType": "application/json"}),
]
"""What a function is called with: a JSON object."""


class CalledFunction(Part):
    """Which function was called, and how.

    Attributes:
        name: Its name.
        arguments: A JSON object.
        parsed_arguments: Not looked at: what OpenAI's client made of them.
    """

    name: FunctionName
    arguments: CallArguments
    parsed_arguments: Any = None


class MessageCall(Part):
    """A call of a function.

    Attributes:
        id: What the message with its result calls it.
        type: There is one.
        function: What was called.
        index: Not looked at: its place, where a client has put a stream together.
    """

    id: CallId
    type: Literal["function"]
    function: CalledFunction
    index: Annotated[int, Field(ge=0), WHOLE] | None = None

    def to_template(self) -> dict[str, Any]:
        """Return what a chat template reads, which wants arguments as an object."""
        arguments = json.loads(self.function.arguments or "{}")
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class AssistantMessage(Part):
    """What the model said and called.

    Attributes:
        role: The model's.
        content: What it said; it may say nothing where it calls something, or only thought.
        reasoning_content: What it thought before, for templates that read it.
        reasoning: Another name of that.
        name: Which of several, likewise.
        tool_calls: What it called.
        parsed: Not looked at: what OpenAI's client made of the content.
    """

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    name: _PersonName | None = None
    tool_calls: Annotated[list[MessageCall], Field(max_length=128)] = Field(default_factory=list)
    parsed: Any = None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema, with the rule that binds some members."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        says: list[dict[str, Any]] = [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
            for name in ("content", "reasoning_content", "reasoning")
        ]
        called = {"type": "array", "minItems": 1}
        calls = {"required": ["tool_calls"], "properties": {"tool_calls": called}}
        handler.resolve_ref_schema(schema)["anyOf"] = [*says, calls]
        return schema

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        thought = (self.reasoning_content, self.reasoning) != (None, None)
        if self.content is None and not self.tool_calls and not thought:
            raise PydanticCustomError("content", "it must have content or tool_calls")
        return self

    def to_template(self) -> dict[str, Any]:
        """Return what a chat template reads."""
        told: dict[str, Any] = {"role": "assistant", "content": self.content or ""}
        thought = self.reasoning if self.reasoning_content is None else self.reasoning_content
        if thought is not None:
            told["reasoning_content"] = thought
        if self.name is not None:
            told["name"] = self.name
        if self.tool_calls:
            # Some templates ask whether it is there, and not whether there is something in it.
            told["tool_calls"] = [call.to_template() for call in self.tool_calls]
        return told


class ToolMessage(Part):
    """What came of a call.

    Attributes:
        role: Says so.
        content: What came of it.
        tool_call_id: Which call.
        name: Of the function, for templates that ask; else it is that of the call.
    """

    role: Literal["tool"]
    content: Content
    tool_call_id: CallId
    name: FunctionName | None = None

    def to_template(self) -> dict[str, Any]:
        """Return what a chat template reads."""
        told = {"role": "tool", "tool_call_id": self.tool_call_id, "content": self.content}
        return told if self.name is None else {**told, "name": self.name}


_TAGS: Final = {
    "system": "plain-message",
    "developer": "plain-message",
    "user": "plain-message",
    "assistant": "assistant-message",
    "tool": "tool-message",
}


def _tag(given: Any) -> str:
    role = given.get("role") if isinstance(given, dict) else None
    return _TAGS.get(role, "plain-message") if isinstance(role, str) else "plain-message"


Message: TypeAlias = Annotated[
    Annotated[PlainMessage, Tag("plain-message")]
    | Annotated[AssistantMessage, Tag("assistant-message")]
    | Annotated[ToolMessage, Tag("tool-message")],
    Discriminator(_tag),
]
"""One message of a chat."""


def to_template(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as chat templates read them, results with the names of what was called."""
    names: dict[str, str] = {}
    told = []
    for message in messages:
        one = message.to_template()
        for call in one.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if one["role"] == "tool" and one["tool_call_id"] in names:
            one.setdefault("name", names[one["tool_call_id"]])
        told.append(one)
    return told
