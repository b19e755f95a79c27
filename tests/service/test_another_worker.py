"""The seams hold: a worker of another kind is one dataclass, one translator and one route."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import httpx
import pytest
from pydantic import BaseModel, Field
from sanic import Request
from stand_in import Memory, Status, bodies

from rbee_bench.hive_stand_in import Hive
from rbee_runtime.errors import InvalidRequest, QueueFull, RuntimeFault
from rbee_service.address import listen
from rbee_service.auth import ApiToken
from rbee_service.callback import ReadyReport, report_ready
from rbee_service.events import (
    End,
    EventError,
    Failed,
    InferenceEvent,
    Output,
    Started,
    StopReason,
)
from rbee_service.health import WorkerState
from rbee_service.http.app import App, correlation_id, create_app
from rbee_service.http.connection import DEFAULT_LIMITS
from rbee_service.http.descriptions import DIALECT, inference_events, refusals
from rbee_service.http.docs_routes import add_docs_routes
from rbee_service.http.intake import take_in
from rbee_service.http.replies import inference_chunks, stream_reply
from rbee_service.http.server import HttpServer
from rbee_service.http.status_routes import add_status_routes
from rbee_service.inference import LiveInferences
from rbee_service.loading import LoadingBoard
from rbee_service.narration import Narrator
from rbee_service.openapi import Answer, Operation, Stream
from rbee_service.sse import SseDialect
from rbee_service.timestamps import rfc3339_now
from rbee_service.token_keeper import TokenKeeper

MODEL: Final = "hf:test/ranks"
SECRET: Final = "t0ken-of-the-test"


@dataclass(frozen=True, slots=True)
class RelevanceOutput:
    relevance: float


@dataclass(frozen=True, slots=True)
class RankJob:
    request_id: str
    text: str


Relevance = float | RuntimeFault


@dataclass
class Ranker:
    """An ``InferenceBackend`` whose events are numbers: the more letters, the more relevant."""

    refusal: RuntimeFault | None = None
    fault: RuntimeFault | None = None
    cancelled: list[str] = field(default_factory=list)

    def submit(self, request: RankJob, sink: Callable[[Relevance], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        relevance = self.fault or len(request.text) / 4
        threading.Thread(target=sink, args=(relevance,)).start()

    def cancel(self, request_id: str) -> bool:
        self.cancelled.append(request_id)
        return False

    def status(self) -> Status:
        return Status(slots_total=4, slots_available=3)

    def memory(self) -> Memory:
        return Memory()

    def close(self) -> None:
        pass


class RankRequest(BaseModel):
    job_id: Annotated[str, Field(min_length=1, max_length=256)]
    text: Annotated[str, Field(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class RankTranslator:
    job_id: str
    narrator: Narrator

    def open(self) -> list[InferenceEvent[RelevanceOutput]]:
        told = self.narrator.tell("accept", MODEL, human="Accepted", cute="Hm!", story='"Yes."')
        return [Started(self.job_id, MODEL, rfc3339_now()), told]

    def translate(self, event: Relevance) -> list[InferenceEvent[RelevanceOutput]]:
        if isinstance(event, RuntimeFault):
            return [Failed(EventError.INFERENCE_FAILED, str(event))]
        return [Output(RelevanceOutput(event)), End(1, 0, StopReason.EOS)]


EVENTS: Final = Stream(inference_events(RelevanceOutput), "data: [DONE]\n\n")
RANK: Final = Operation(
    "Inference",
    "The relevance of one text",
    {
        200: Answer(
            "Its events.", (Stream(inference_events(RelevanceOutput), "data: [DONE]\n\n"),)
        ),
        **refusals(400, 413, 503),
    },
    bodies=(RankRequest,),
    example={"job_id": "j", "text": "Hello"},
    parameters=(DIALECT,),
)


def add_rank_route(app: App, state: WorkerState[RankJob, Relevance], live: LiveInferences) -> None:
    async def rank(request: Request) -> None:
        backend = state.backend()
        taken = take_in(request, RankRequest, {"text"}, SseDialect.OUTPUT)
        job = RankJob(uuid.uuid4().hex, taken.body.text)
        job_id = taken.body.job_id
        narrator = Narrator("ranker", job_id=job_id, correlation_id=correlation_id(request))
        translator = RankTranslator(job_id, narrator)
        # What a reader does not take is never more than one number.
        async with live.submitted(
            backend, job.request_id, job, translator, lambda: None
        ) as inference:
            await stream_reply(request, inference_chunks(inference, taken.manner.dialect))

    app.add_route(rank, "/v1/inference", methods=["POST"], name="rank", ctx_operation=RANK)


@asynccontextmanager
async def serving(ranker: Ranker) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    state: WorkerState[RankJob, Relevance] = WorkerState()
    app = create_app("ranker", TokenKeeper(ApiToken(SECRET)), DEFAULT_LIMITS)
    add_status_routes(app, state, LoadingBoard())
    add_rank_route(app, state, LiveInferences())
    add_docs_routes(app, "ranker", "1", "Ranks.")
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    server = HttpServer(app, listener)
    await server.start()
    try:
        headers = {"authorization": f"Bearer {SECRET}", "x-correlation-id": "c-1"}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10
        ) as client:
            loading = await client.post("/v1/inference", json={"job_id": "j", "text": "Hello"})
            assert loading.status_code == 503
            state.serve(ranker, MODEL)
            yield client, port
    finally:
        await server.stop()


async def rank(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post(
        "/v1/inference", json={"job_id": "j", "text": "Hello"}, headers=headers
    )


async def test_its_events_are_those_of_the_contract() -> None:
    async with serving(Ranker()) as (client, _):
        answer = await rank(client)
        older = await rank(client, **{"x-rbee-sse-dialect": "token"})
    line = 'data: {"type":"output","relevance":1.25}\n\n'
    assert line in answer.text
    assert line.replace('"output"', '"token"') in older.text
    started, narration, output, end = bodies(answer.content)
    assert [e["type"] for e in (started, narration, output, end)] == [
        "started",
        "narration",
        "output",
        "end",
    ]
    assert (started["job_id"], started["model"]) == ("j", MODEL)
    assert (narration["correlation_id"], narration["job_id"]) == ("c-1", "j")
    assert output["relevance"] == 1.25
    assert end["items_out"] == 1


async def test_it_fails_as_any_worker_does() -> None:
    ranker = Ranker()
    async with serving(ranker) as (client, port):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as stranger:
            assert (await rank(stranger)).status_code == 401
            assert (await stranger.get("/health")).json()["status"] == "healthy"
        bad = await client.post("/v1/inference", json={"text": "x" * 65})
        assert {f["constraint"] for f in bad.json()["errors"]} == {"required", "length(1..=64)"}
        assert "xxx" not in bad.text
        ranker.refusal = QueueFull("the queue is full")
        full = await rank(client)
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        ranker.refusal = InvalidRequest("text", "no such text")
        assert (await rank(client)).json()["errors"][0]["field"] == "text"
        ranker.refusal, ranker.fault = None, RuntimeFault("it broke")
        *_, failed = bodies((await rank(client)).content)
        assert failed == {"type": "error", "code": "INFERENCE_FAILED", "message": "it broke"}
        assert (await client.get("/v1/ready")).json()["state"] == "busy"
        document = (await client.get("/docs/openapi.json")).json()
    required = document["components"]["schemas"]["OutputEvent"]["required"]
    assert required == ["type", "relevance"]


async def test_it_reports_ready_as_any_worker_does() -> None:
    with Hive() as hive:
        async with httpx.AsyncClient() as client:
            tries: list[str] = []
            report = ReadyReport("w", "http://h:1", MODEL, "cpu", 0, 1, 1)
            await report_ready(
                client, f"{hive.url}/ready", report, max_retries=0, count=tries.append
            )
        [told] = await asyncio.to_thread(hive.wait_for, "/ready")
    assert told.body["model_ref"] == MODEL
    assert tries == ["ok"]


SEAMS: Final = {
    "errors": ["errors", "validation"],
    "startup": ["callback", "heartbeat", "identity", "address"],
    "health": ["health", "loading", "http.status_routes"],
    "streaming": ["events", "sse", "bridge", "inference", "narration", "http.replies"],
    "server": ["http.app", "http.server", "http.intake", "http.docs_routes", "openapi", "auth"],
}


@pytest.mark.parametrize("seam", SEAMS)
def test_no_seam_knows_of_a_kind_of_model(seam: str) -> None:
    """What another worker takes brings none of ours, no engine and no numbers with it."""
    names = [f"rbee_service.{name}" for name in SEAMS[seam]]
    program = f"import json, sys, {', '.join(names)}; print(json.dumps(list(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded: list[Any] = json.loads(ran.stdout)
    unwanted = ("numpy", "onnxruntime", "rbee_export", "rbee_runtime.engine")
    unwanted += ("rbee_service.completion", "rbee_service.embedding", "rbee_service.openai.")
    unwanted += ("rbee_service.worker", "rbee_service.model_", "rbee_service.http.inferences")
    assert not [name for name in loaded if name.startswith(unwanted)]
