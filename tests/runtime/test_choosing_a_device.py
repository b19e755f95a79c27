"""Which device an artifact runs on, and what is said where that cannot be."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
from support.cuda_on_host import CudaOnHost
from support.fake_cuda_library import FakeCuda
from support.makers import MakeArtifact

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import open_backend, opening
from rbee_runtime.device import CudaLibrary, Gpu, Nvml, cuda_copy, cuda_library
from rbee_runtime.device.nvml import Usage
from rbee_runtime.errors import DeviceError, DeviceLost, OutOfMemory

Open = Callable[..., Any]


@pytest.fixture
def artifact(tiny_llama: Path, make_artifact: MakeArtifact) -> Callable[[str], Artifact]:
    return lambda precision: Artifact.open(make_artifact(tiny_llama, precision))


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "has_driver", lambda: True)
    monkeypatch.setattr(opening, "open_cuda", lambda index: CudaOnHost(FakeCuda(), index))


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "has_driver", lambda: False)


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("precision", "name", "expected"),
    [
        ("fp16", None, "cuda"),
        ("fp16", "cuda", "cuda"),
        ("fp16", "cpu", "cpu"),
        ("int8", None, "cpu"),
        ("int8", "cpu", "cpu"),
    ],
)
def test_the_gpu_takes_what_is_made_for_it(
    precision: str,
    name: str | None,
    expected: str,
    artifact: Callable[[str], Artifact],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "rbee.backend"):
        backend = open_backend(artifact(precision), name, slots=2, context=64)
    assert backend.name == expected
    assert [record.message for record in caplog.records] == [
        record.message for record in caplog.records if f"{expected} device 0: " in record.message
    ]
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("with_gpu")
def test_the_log_names_the_gpu(
    artifact: Callable[[str], Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rbee.backend"):
        open_backend(artifact("fp16"), "cuda", slots=1, context=64)
    assert "No GPU, 1 GiB, compute capability 9.0, driver 580.1" in caplog.messages[0]


@pytest.mark.parametrize("name", ["cuda", None])
def test_bf16_needs_a_gpu_that_computes_in_it(
    name: str | None, artifact: Callable[[str], Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "has_driver", lambda: True)
    monkeypatch.setattr(
        opening, "open_cuda", lambda index: CudaOnHost(FakeCuda(), index, capability=(7, 5))
    )
    with pytest.raises(DeviceError, match=r"bf16.*capability 7\.5.*--precision fp16") as caught:
        open_backend(artifact("bf16"), name, slots=1, context=64)
    assert "\n" not in str(caught.value)
    assert open_backend(artifact("fp16"), name, slots=1, context=64).name == "cuda"


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_the_cpu_does(artifact: Callable[[str], Artifact]) -> None:
    assert open_backend(artifact("fp16"), slots=1, context=64).name == "cpu"


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("precision", "name", "device", "message"),
    [
        ("int8", "cuda", 0, "compiled for cpu; export with --target cuda"),
        ("bf16", None, 0, "bf16, for which the CPU has no operators"),
        ("bf16", "cpu", 0, "bf16, for which the CPU has no operators"),
        ("int8", "cpu", 1, "device 1 does not exist"),
        (
            "int8",
            "tensorrt",
            0,
            "compiled for cpu, not for tensorrt; export with --target tensorrt$",
        ),
        ("fp16", "tensorrt", 0, "compiled for cuda, not for tensorrt.*, or say --fallback cuda$"),
    ],
)
def test_a_mismatch_is_named(
    precision: str,
    name: str | None,
    device: int,
    message: str,
    artifact: Callable[[str], Artifact],
) -> None:
    with pytest.raises(DeviceError, match=message):
        open_backend(artifact(precision), name, device, slots=1, context=64)


def loads(*known: str) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if not any(name.startswith(prefix) for prefix in known):
            raise OSError(name)
        return SimpleNamespace()

    return load


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ((), r"no NVIDIA driver \(libcuda.so.1\).*--gpus all"),
        (("libcuda.so",), r"libcublasLt.so.\d+ is not to be found.*onnx-worker-rbee\[cuda\]"),
        (("libcuda.so", "libcublas", "libcurand"), r"libcudart.so.\d+ is not to be found"),
    ],
)
def test_what_is_missing_is_named(
    known: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_library.ctypes, "CDLL", loads(*known))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(DeviceError, match=message) as caught:
        CudaLibrary.load(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "index", "message"),
    [(0, 0, "no CUDA-capable device"), (2, 2, "device 2 does not exist: CUDA sees 2")],
)
def test_a_gpu_that_is_not_there(devices: int, index: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        CudaLibrary(FakeCuda(devices=devices), index)


def test_its_errors_are_ours() -> None:
    fake = FakeCuda(size=1000)
    library = CudaLibrary(fake, 0)
    with pytest.raises(OutOfMemory, match=r"no 1\.0 kB of"):
        library.allocate(1001)
    library.free(library.allocate(1000))
    fake.broken = 700
    with pytest.raises(DeviceLost, match=r"failed in cudaStreamSynchronize: .*\(error 700\)"):
        library.wait(77)
    assert ctypes.sizeof(cuda_copy.Copy3D) == 160  # as the runtime's header has it


class NvmlFault(Exception):
    pass


@dataclass
class FakeNvml:
    """What :class:`~rbee_runtime.device.Nvml` calls of ``pynvml``."""

    NVMLError = NvmlFault
    used: int = 9_000
    processes: list[SimpleNamespace] = field(default_factory=list)
    lost: bool = False
    asked: list[str] = field(default_factory=list)

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: bytes) -> str:
        if bus_id != b"0000:01:00.0":
            raise NvmlFault("Not Found")
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> str:
        self.asked.append("name")
        return "NVIDIA H200"

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> list[int]:
        self.asked.append("capability")
        return [9, 0]

    def nvmlSystemGetDriverVersion(self) -> str:
        self.asked.append("driver")
        return "580.159"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        if self.lost:
            raise NvmlFault("GPU is lost")
        return SimpleNamespace(total=24_000, used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return self.processes


def test_memory_is_told_apart_by_process() -> None:
    fake = FakeNvml(processes=[SimpleNamespace(pid=1, usedGpuMemory=2_000)])
    nvml = Nvml(fake, "0000:01:00.0")
    assert nvml.memory().own is None  # a container: the driver knows this process by another id
    fake.processes.append(SimpleNamespace(pid=os.getpid(), usedGpuMemory=6_000))
    memory = nvml.memory()
    assert (memory.total, memory.used, memory.own, memory.others) == (24_000, 9_000, 6_000, 3_000)
    fake.processes[-1].usedGpuMemory = None
    assert nvml.memory().others is None


def test_what_a_gpu_is_is_asked_once() -> None:
    fake = FakeNvml()
    nvml = Nvml(fake, "0000:01:00.0")
    usage = Usage(nvml)
    for _ in range(3):
        assert nvml.gpu == Gpu("NVIDIA H200", (9, 0), 24_000, "580.159")
        usage.held()
    assert sorted(fake.asked) == ["capability", "driver", "name"]


def test_a_gpu_that_nvml_does_not_know_or_has_lost() -> None:
    fake = FakeNvml()
    with pytest.raises(DeviceError, match="knows no GPU at 0000:02"):
        Nvml(fake, "0000:02:00.0")
    nvml = Nvml(fake, "0000:01:00.0")
    fake.lost = True
    with pytest.raises(DeviceError, match="GPU is lost"):
        nvml.memory()


def test_what_is_held_without_knowing_whose_it_is() -> None:
    fake = FakeNvml()
    usage = Usage(Nvml(fake, "0000:01:00.0"))
    fake.used += 500
    assert usage.held() == 500
    fake.processes.append(SimpleNamespace(pid=os.getpid(), usedGpuMemory=450))
    assert usage.held() == 450
    fake.lost = True
    assert usage.held() == 450
