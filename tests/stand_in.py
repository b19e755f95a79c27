"""An engine without a model and a worker around it, for tests of what lies towards the wire."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
from sanic import Sanic

from rbee_runtime.artifact import MANIFEST_NAME, CacheGeometry, FileEntry, Manifest, Shapes, Source
from rbee_runtime.errors import EngineClosed, InvalidRequest, RuntimeFault
from rbee_runtime.events import Event, Failed, Finished, Piece, Started, StopReason
from rbee_runtime.reasoning import ReasoningForm
from rbee_runtime.request import Request
from rbee_runtime.tools.in_words import MannerInWords
from rbee_service.address import listen
from rbee_service.http.connection import DEFAULT_LIMITS, Limits
from rbee_service.loading import LayerProgress
from rbee_service.options import Options, parse_options
from rbee_service.worker import Worker

MODEL = "hf:test/stand-in"

# Lets one process hold several applications one after the other.
Sanic.test_mode = True


def manifest() -> Manifest:
    return Manifest(
        exporter="test",
        source=Source(format="gguf", name="stand-in.gguf", sha256="0" * 64),
        model_ref=MODEL,
        family="llama",
        shapes=Shapes(
            layers=2,
            hidden=8,
            intermediate=16,
            heads=2,
            kv_heads=1,
            head_dim=4,
            vocab=32,
            context_length=2048,
        ),
        precision="fp32",
        dialect="ort",
        cache=CacheGeometry(layers=2, kv_heads=1, head_dim=4, dtype="float32"),
        files=tuple(
            FileEntry(role=role, path=role, size=1, sha256="0" * 64)
            for role in ("graph", "weights", "tokenizer")
        ),
        bos_token_id=1,
        eos_token_ids=(2,),
        chat_template=None,
    )


def finished(
    reason: StopReason = StopReason.EOS,
    tokens: int = 2,
    stop: str | None = None,
    decode_seconds: float = 0.5,
) -> Finished:
    return Finished(reason, stop, 3, 0, tokens, 0.25, decode_seconds)


def text(*pieces: str) -> list[Event]:
    """Return the events of a completion made of ``pieces``, one token each."""
    return [
        Started(prompt_tokens=3, seed=7),
        *(Piece(piece, number + 1) for number, piece in enumerate(pieces)),
        finished(tokens=len(pieces)),
    ]


@dataclass(frozen=True, slots=True)
class Status:
    slots_total: int = 1
    slots_available: int = 1
    queued: int = 0
    queue_total: int = 64
    healthy: bool = True
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    total: int = 536870912
    weights: int = 400000000
    cache: int = 1000000
    cache_reserved: int = 2000000
    workspace: int = 135870912


class StandInTokenizer:
    """Writes each message of a chat on a line, and tells of functions in words."""

    reasoning_form: ReasoningForm | None = None
    template_variables: frozenset[str] = frozenset()

    @property
    def call_manner(self) -> MannerInWords:
        return MannerInWords(self, takes_system=True)  # type: ignore[arg-type]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if messages[-1]["content"] == "REFUSE":
            raise InvalidRequest("messages", "the chat template failed: no")
        return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"

    def encode(self, text: str, name: str = "prompt") -> list[int]:
        return [*text.encode()]

    def spelled(self, token_id: int) -> bytes | None:
        return None if token_id == 2 else f"<{token_id}>".encode()

    def name(self, token_id: int) -> str:
        return {2: "</s>"}.get(token_id, "")


@dataclass
class StandInEngine:
    """Answers each request, from a thread, with what ``answer`` returns for it.

    A request whose answer does not end stays live until it is cancelled.
    """

    ends: ClassVar[tuple[type, ...]] = (Finished, Failed)

    answer: Callable[[Request], Iterable[Event]] = lambda _: text("Hello", " world")
    refusal: RuntimeFault | None = None
    health: Status = field(default_factory=Status)
    manifest: Any = field(default_factory=manifest)
    backend_name: str = "cpu"
    context_length: int = 2048
    tokenizer: StandInTokenizer = field(default_factory=StandInTokenizer)

    def __post_init__(self) -> None:
        self.submitted: list[Request] = []
        self.cancelled: list[str] = []
        self.closed = False
        self._sinks: dict[str, Callable[[Event], None]] = {}
        self._change = threading.Condition()

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.closed:
            raise EngineClosed("the engine is closed")
        with self._change:
            self.submitted.append(request)
            self._sinks[request.request_id] = sink
            self._change.notify_all()
        threading.Thread(target=self._run, args=(request,)).start()

    def _run(self, request: Request) -> None:
        for event in self.answer(request):
            self.tell(request.request_id, event)

    def tell(self, request_id: str, event: Event) -> None:
        """Send an event of a live request."""
        with self._change:
            sink = self._sinks.get(request_id)
            if isinstance(event, self.ends):
                self._sinks.pop(request_id, None)
            self._change.notify_all()
        if sink is not None:
            sink(event)

    def cancel(self, request_id: str) -> bool:
        with self._change:
            self.cancelled.append(request_id)
            live = request_id in self._sinks
        self.tell(request_id, self.end_of_cancelled(request_id))
        return live

    def end_of_cancelled(self, request_id: str) -> Any:
        return finished(StopReason.CANCELLED)

    def status(self) -> Status:
        return self.health

    def memory(self) -> Memory:
        return Memory()

    def close(self) -> None:
        self.closed = True

    @property
    def live(self) -> int:
        return len(self._sinks)

    async def wait(self, holds: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait until ``holds``, which is asked after every change here."""

        def block() -> bool:
            with self._change:
                return self._change.wait_for(holds, timeout)

        assert await asyncio.to_thread(block), "the engine did not get there"


@dataclass
class Gate:
    """A loader that loads when it is opened, and shows what progress it is given."""

    engine: StandInEngine
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self._open = threading.Event()
        self._progress: Callable[[LayerProgress], None] | None = None
        self._entered = threading.Event()

    def __call__(
        self,
        artifact: Path,
        options: Options,
        progress: Callable[[LayerProgress], None],
    ) -> StandInEngine:
        self._progress = progress
        self._entered.set()
        self._open.wait(30)
        if self.failure is not None:
            raise self.failure
        return self.engine

    async def show(self, progress: LayerProgress) -> None:
        await asyncio.to_thread(self._entered.wait, 10)
        assert self._progress is not None
        self._progress(progress)

    def open(self) -> None:
        self._open.set()


def opened(engine: StandInEngine) -> Gate:
    gate = Gate(engine)
    gate.open()
    return gate


def stand_in_artifact(directory: Path, of: Any = None) -> Path:
    """Make what passes for an artifact as long as only a stand-in loads it."""
    of = of or manifest()
    path = directory / "artifact"
    path.mkdir(exist_ok=True)
    (path / MANIFEST_NAME).write_text(of.model_dump_json())
    for entry in of.files:
        (path / entry.path).write_bytes(b"x" * entry.size)
    return path


@dataclass
class Running:
    """A worker that serves, and how it ended."""

    worker: Worker
    port: int
    life: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running(
    directory: Path,
    load: Any,
    *flags: str,
    environment: dict[str, str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Running]:
    """Run a worker in this process, on a real socket, until the block ends."""
    arguments = [
        "--model",
        str(stand_in_artifact(directory, load.engine.manifest if isinstance(load, Gate) else None)),
        "--port",
        "0",
        "--grace",
        "0",
        *flags,
    ]
    options = parse_options(arguments, environment or {})
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    worker = Worker(options, listener, {}, load, limits)
    life = asyncio.create_task(worker.run())
    try:
        yield Running(worker, port, life)
    finally:
        worker.stop()
        if isinstance(load, Gate):
            load.open()
        await asyncio.gather(life, return_exceptions=True)


async def ready(worker: Running) -> None:
    """Wait until the worker has its model."""
    async with httpx.AsyncClient(base_url=worker.url, timeout=10) as client:
        # The answer is over when loading is.
        await client.get("/v1/loading/progress")


@asynccontextmanager
async def served(
    directory: Path, engine: StandInEngine, *flags: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Running]]:
    async with (
        running(directory, opened(engine), *flags) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
    ):
        await ready(worker)
        yield client, worker


def bodies(stream: bytes) -> list[Any]:
    *events, rest = stream.split(b"\n\n")
    assert rest == b""
    assert events.pop() == b"data: [DONE]"
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def golden(stream: str) -> str:
    """Return a stream without what differs from one time to the next: its voices and the hour."""
    told = re.sub(r'"started_at":"[^"]+"', '"started_at":"NOW"', stream)
    return re.sub(r'data: \{"type":"narration",[^\n]+\n\n', "", told)


def endless(_: Request) -> Iterator[Event]:
    """Begin, and then say nothing more."""
    yield Started(3, 7)
    yield Piece("x", 1)
