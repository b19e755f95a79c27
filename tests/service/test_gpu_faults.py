"""A GPU that fails or is full, in the contract's codes."""

from __future__ import annotations

from pathlib import Path

from stand_in import MODEL, StandInEngine, bodies, served

from rbee_runtime.errors import DeviceLost, InferenceFailed, OutOfMemory, RuntimeFault
from rbee_runtime.events import Failed, Started
from rbee_service.errors import ErrorCode
from rbee_service.events import EventError
from rbee_service.faults import broken_off, failure


def codes(fault: RuntimeFault) -> tuple[EventError, ErrorCode, int, bool]:
    failed, answer = failure(fault), broken_off(fault)
    assert answer.message == failed.message == str(fault)
    return failed.code, answer.code, answer.status, answer.code.retriable


def test_codes() -> None:
    lost = (EventError.INFERENCE_FAILED, ErrorCode.CUDA_ERROR, 500, True)
    assert codes(DeviceLost("the GPU is gone")) == lost
    full = (EventError.VRAM_OOM, ErrorCode.INSUFFICIENT_VRAM, 507, False)
    assert codes(OutOfMemory("no bytes left")) == full
    assert codes(InferenceFailed("an operator"))[1] is ErrorCode.INTERNAL


async def test_a_lost_device_is_told_apart_where_the_contract_has_a_word_for_it(
    tmp_path: Path,
) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Failed(DeviceLost("the GPU is gone"))])
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/infer", json={"prompt": "x"})
        assert whole.status_code == 500
        assert whole.json() == {
            "code": "CUDA_ERROR",
            "message": "the GPU is gone",
            "retriable": True,
        }
        openai = await client.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
        assert openai.status_code == 500
        assert openai.json()["error"]["code"] == "cuda_error"
        job = {"job_id": "j", "prompt": "x", "max_tokens": 4}
        *_, event = bodies((await client.post("/v1/inference", json=job)).content)
        told = {"type": "error", "code": "INFERENCE_FAILED", "message": "the GPU is gone"}
        assert event == told
