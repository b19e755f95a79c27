"""The OpenAPI 3.1 document of a worker, made of what each of its routes says of itself.

A route carries an :class:`Operation`; its shapes are the types that the service itself reads and
writes, so that the document follows the code. That is also why no plug-in of the HTTP server
makes it: Sanic's writes OpenAPI 3.0 and knows neither our validation nor event streams, and its
pages load scripts from elsewhere, which a worker in a closed network cannot.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from pydantic import TypeAdapter

from rbee_service.auth import UnauthorizedBody
from rbee_service.errors import ErrorBody

VERSION: Final = "3.1.0"
JSON: Final = "application/json"
SSE: Final = "text/event-stream"

Schema: TypeAlias = dict[str, Any]

_VARIABLE: Final = re.compile(r"<(\w+)(?::\w+)?>")
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something a request says outside its body.

    Attributes:
        place: Where.
        name: Of the header, or of the part of the path.
        meaning: One sentence.
        schema: JSON schema of its value.
    """

    place: Literal["path", "header"]
    name: str
    meaning: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class EventShape:
    """A kind of event in a stream.

    Attributes:
        kind: Its ``type``.
        data: Dataclass of its other members; one that is ``None`` is left out.
        variant: Names its shape, where that is of one dialect or of one kind of model.
        renamed: Members that this variant calls otherwise.
    """

    kind: str
    data: type
    variant: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Content:
    """A form in which an answer may come.

    Attributes:
        shape: A type that pydantic can describe.
        media: Its content type.
    """

    shape: Any
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events of JSON.

    Attributes:
        events: What they may be: their kinds, or types that pydantic can describe.
        example: All the text of a stream.
        last: Pattern of the last event, which is not JSON; ``None`` if it is.
        named: Whether events have names, which are their types.
    """

    events: tuple[Any, ...]
    example: str
    last: str | None = r"^\[DONE\]$"
    named: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route may answer with.

    Attributes:
        meaning: One sentence.
        contents: The forms it may come in.
        headers: What headers of its own mean, by name.
        links: Names of routes that go on from here, each with the parameter they take from the
            answer's JSON and its JSON pointer there.
    """

    meaning: str
    contents: tuple[Content | Stream, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)


# Routes are hashed with all they carry: by identity, as dictionaries cannot be.
@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What a route says of itself.

    Attributes:
        group: Where it is shown.
        summary: One line.
        answers: By status; 401 and 500, which every route has, go without saying.
        description: More of it.
        bodies: Types that the request's body may be of; none where it has no body.
        example: A body.
        parameters: What else a request may say.
        echoed: Headers that every answer carries as they came, or as they were made.
        failure: Shape of a failure that goes without saying, where it is the route's own.
    """

    group: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    bodies: tuple[Any, ...] = ()
    example: object = None
    parameters: tuple[Parameter, ...] = ()
    echoed: tuple[Parameter, ...] = ()
    failure: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route with what it says of itself.

    Attributes:
        name: Unique among the routes.
        method: In capitals.
        path: With its variables as ``<name:type>``.
        public: Whether it asks for no token.
        operation: What it says.
    """

    name: str
    method: str
    path: str
    public: bool
    operation: Operation


_CORRELATION: Final = Parameter(
    "header",
    "X-Correlation-ID",
    "Ties the request to its log lines. Of A-Z a-z 0-9 . _ -, at most 128; else one is made.",
)


def document(
    title: str, version: str, description: str, routes: Iterable[Route]
) -> dict[str, object]:
    """Return the document.

    Args:
        title: What it describes.
        version: Of that.
        description: Of that.
        routes: All there are.
    """
    shapes = _Shapes()
    paths: dict[str, Schema] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        path = "/" + _VARIABLE.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(shapes.definitions.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, shapes: _Shapes) -> Schema:
    said = route.operation
    echoed = (*said.echoed, _CORRELATION)
    told: Schema = {
        "operationId": route.name,
        "tags": [said.group],
        "summary": said.summary,
        "security": [] if route.public else [{"token": []}],
        "parameters": [_parameter(p) for p in (*said.parameters, *echoed)],
    }
    if said.description:
        told["description"] = said.description
    if said.bodies:
        [first, *others] = [shapes.of(body) for body in said.bodies]
        schema = {"anyOf": [first, *others]} if others else first
        content = {JSON: {"schema": schema, "example": said.example}}
        told["requestBody"] = {"required": True, "content": content}
    failure = said.failure
    answers = dict(said.answers)
    answers[500] = Answer("A fault of the worker.", (Content(failure or ErrorBody),))
    if not route.public:
        answers[401] = Answer(
            "The token is missing or another one.",
            (Content(failure or UnauthorizedBody),),
            {"WWW-Authenticate": "Always Bearer."},
        )
    told["responses"] = {
        str(status): _answer(answer, echoed, shapes) for status, answer in sorted(answers.items())
    }
    return told


def _parameter(parameter: Parameter) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.meaning,
        "schema": dict(parameter.schema),
    }


def _answer(answer: Answer, echoed: Iterable[Parameter], shapes: _Shapes) -> Schema:
    always = {parameter.name: "As it came, or as it was made." for parameter in echoed}
    headers = always | dict(answer.headers)
    return {
        "description": answer.meaning,
        "headers": {
            name: {
                "description": meaning,
                "required": name in always,
                "schema": {"type": "string"},
            }
            for name, meaning in headers.items()
        },
        "content": dict(_content(content, shapes) for content in answer.contents),
        "links": {
            route: {"operationId": route, "parameters": {name: f"$response.body#{pointer}"}}
            for route, (name, pointer) in answer.links.items()
        },
    }


def _content(content: Content | Stream, shapes: _Shapes) -> tuple[str, Schema]:
    match content:
        case Content():
            return content.media, {"schema": shapes.of(content.shape)}
        case Stream():
            return SSE, {"schema": _event(content, shapes), "example": content.example}


def _event(stream: Stream, shapes: _Shapes) -> Schema:
    """Describe one event: before 3.2, what the schema of a stream is of is left open."""
    told = {
        "contentMediaType": JSON,
        "contentSchema": {"oneOf": [shapes.of(event) for event in stream.events]},
    }
    data: Schema = {"type": "string", **told}
    if stream.last is not None:
        data = {"type": "string", "anyOf": [{"pattern": stream.last}, told]}
    members: Schema = {"event": {"type": "string"}} if stream.named else {}
    members["data"] = data
    return {"type": "object", "required": [*members], "properties": members}


class _Shapes:
    """Describes types, and collects those that have names."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def of(self, shape: Any) -> Schema:
        """Return the schema of a type or kind of event, or a reference to it."""
        if isinstance(shape, EventShape):
            return self._event(shape)
        schema = _schema(shape, self.definitions)
        if "properties" not in schema:
            return schema
        return self._named(shape.__name__, schema)

    def _event(self, event: EventShape) -> Schema:
        schema = _schema(event.data, self.definitions)
        for rule in schema["properties"].values():
            for present in rule.pop("anyOf", ()):
                if present != {"type": "null"}:
                    rule.update(present)
                    rule.pop("default", None)
        names = {name: event.renamed.get(name, name) for name in schema["properties"]}
        members = {names[name]: rule for name, rule in schema["properties"].items()}
        schema["properties"] = {"type": {"const": event.kind}} | members
        schema["required"] = ["type", *(names[name] for name in schema["required"])]
        return self._named(f"{event.variant}{event.kind.capitalize()}Event", schema)

    def _named(self, name: str, schema: Schema) -> Schema:
        known = self.definitions.setdefault(name, schema)
        assert known == schema, f"two shapes are called {name}"
        return {"$ref": f"#/components/schemas/{name}"}


def _schema(shape: Any, definitions: dict[str, Schema]) -> Schema:
    adapter: TypeAdapter[Any] = TypeAdapter(shape)
    schema = adapter.json_schema(ref_template="#/components/schemas/{model}")
    definitions |= schema.pop("$defs", {})
    if inspect.isclass(shape) and "properties" in schema:
        _explain(schema, shape)
    return schema


def _explain(schema: Schema, shape: type) -> None:
    """Give every member the meaning that its class's docstring says it has."""
    schema["description"] = inspect.getdoc(shape).partition("\n\nAttributes:")[0]  # type: ignore[union-attr]
    for owner in reversed(shape.__mro__):
        for name, meaning in _ATTRIBUTE.findall(inspect.getdoc(owner) or ""):
            if name in schema["properties"]:
                schema["properties"][name]["description"] = " ".join(meaning.split())
