"""What runs an artifact for TensorRT, and what is said where its engine does not fit."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from support.cuda_on_host import CudaOnHost
from support.engines import require_engine_builder
from support.fake_cuda_library import FakeCuda
from support.fake_tensorrt import FakeTensorRt
from support.tensorrt_on_host import install

from rbee_export.cli import main as export_main
from rbee_runtime.artifact import MANIFEST_NAME, Artifact
from rbee_runtime.backend import open_backend, opening
from rbee_runtime.backend.session import TensorRtOptions, open_session
from rbee_runtime.backend.tensorrt import TensorRtBackend
from rbee_runtime.backend.tensorrt_session import model_options
from rbee_runtime.engine import Engine
from rbee_runtime.errors import ArtifactError, DeviceError, InvalidSetting
from rbee_runtime.step import Step

ROWS, LENGTH = 3, 96
IDS = np.random.default_rng(5).integers(3, 384, 90).tolist()
Change = Callable[..., Path]


@pytest.fixture(scope="module")
def artifacts(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """In fp16: with an engine, without one, and what is for CUDA."""
    require_engine_builder()
    root = tmp_path_factory.mktemp("choosing")
    common = ["--model", str(tiny_llama), "--precision", "fp16", "--no-verify"]
    limits = ["--max-batch", str(ROWS), "--max-len", str(LENGTH)]
    flags = {
        "engine": ["--target", "tensorrt", "--gpu-arch", "SM89", *limits],
        "graph": ["--target", "tensorrt", "--gpu-arch", "none"],
        "cuda": ["--target", "cuda"],
    }
    for name, own in flags.items():
        assert export_main([*common, *own, "--out", str(root / name)]) == 0
    return {name: root / name for name in flags}


@pytest.fixture
def change(artifacts: Mapping[str, Path], tmp_path: Path) -> Change:
    """``change(**fields)``: the artifact, its manifest's engine changed."""

    def make(**fields: Any) -> Path:
        target = tmp_path / "changed"
        shutil.copytree(artifacts["engine"], target)
        file = target / MANIFEST_NAME
        manifest = json.loads(file.read_text())
        manifest["engines"][0] |= fields
        file.write_text(json.dumps(manifest))
        return target

    return make


def logits_of(backend: Any) -> np.ndarray:
    backend.advance(Step.of(0, 0, IDS[:40]), None)
    return backend.run(Step.of(0, 40, IDS[40:41]))


@pytest.mark.parametrize("name", [None, "tensorrt"])
def test_its_engine_is_taken(
    name: str | None,
    artifacts: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(monkeypatch, artifacts["engine"])
    with caplog.at_level(logging.INFO, "rbee.backend"):
        backend = open_backend(Artifact.open(artifacts["engine"]), name)
    assert (backend.name, backend.slots, backend.capacity) == ("tensorrt", ROWS, LENGTH)
    (record,) = caplog.records
    assert "tensorrt device 0: its engine is for SM89 and tensorrt_rtx" in record.message


MISMATCHES = {
    "architecture": (
        {"architecture": "SM120"},
        {},
        r"engine is for SM120 with tensorrt_rtx [\d.]+, and here are SM89 and tensorrt_rtx [\d.]+; "
        r"export it again with --gpu-arch SM89",
    ),
    "version": (
        {"version": "1.6.0.1"},
        {"version": "1.7.0.2"},
        r"engine is of tensorrt_rtx 1.6.0.1, and 1.7.0.2 is installed; export it again",
    ),
    "both": (
        {"architecture": "SM86", "version": "1.6.0.1"},
        {"version": "1.7.0.2"},
        r"is for SM86 with tensorrt_rtx 1.6.0.1, and here are SM89 and tensorrt_rtx 1.7.0.2; ",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_an_engine_for_something_else_is_named(
    case: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, options, message = MISMATCHES[case]
    path = change(**fields)
    fake = install(monkeypatch, path, **options)
    with pytest.raises(DeviceError, match=message + r".*, or say --fallback cuda$") as caught:
        open_backend(Artifact.open(path), "tensorrt")
    assert "\n" not in str(caught.value)
    assert not fake.cuda.used, "nothing has been loaded"


def test_of_several_engines_the_fitting_one_is_taken(
    change: Change, artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = change()
    file = path / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    manifest["engines"].insert(0, manifest["engines"][0] | {"architecture": "SM86", "path": "x"})
    file.write_text(json.dumps(manifest))
    install(monkeypatch, artifacts["engine"])
    assert open_backend(Artifact.open(path), "tensorrt").name == "tensorrt"


def test_the_library_for_the_gpu_at_hand(
    change: Change, artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = []
    for path in (change(library="tensorrt", version="10.15.1.29"), artifacts["engine"]):
        fake = install(monkeypatch, path)
        backend = open_backend(Artifact.open(path), "tensorrt")
        backend.warm_up()
        logits.append(logits_of(backend))
        assert len(fake.cuda.graphs) == len(fake.contexts) - 1 == ROWS
    np.testing.assert_array_equal(*logits)


def test_a_missing_library_is_named(
    artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, artifacts["engine"])
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(DeviceError, match=r"not installed; pip install '.*\[tensorrt-rtx\]'"):
        open_backend(Artifact.open(artifacts["engine"]), "tensorrt")


def test_a_library_that_does_not_load_says_why(
    artifacts: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, artifacts["engine"])
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: no')\n")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"installed, but cannot be loaded: libtensorrt_rtx.so.1"):
        open_backend(Artifact.open(artifacts["engine"]), "tensorrt")


def test_an_engine_that_tensorrt_refuses(
    artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, artifacts["engine"])
    fake.fails = "Error Code 6: API Usage Error (The engine plan file is not compatible)"
    with pytest.raises(DeviceError, match=r"SM89.engine: .*not compatible\); export it again here"):
        open_backend(Artifact.open(artifacts["engine"]), "tensorrt")


DIFFERENCES = {
    "name": (("name", "past_key.0"), "past_keys", r"other inputs and outputs \(past_key.0, past_k"),
    "dtype": (
        ("dtype", "past_key.1"),
        FakeTensorRt.DataType["FLOAT"],
        r"past_key.1 of type FLOAT, not float16",
    ),
    "location": (
        ("location", "write_indices"),
        FakeTensorRt.TensorLocation["HOST"],
        r"write_indices on the host",
    ),
    "shape": (("shape", "logits"), (-1, 99), r"logits of \(-1, 99\)"),
    "alias": (("alias", "present_value.0"), None, r"present_value.0 outside of past_value.0"),
    "profile": (
        ("profile", "input_ids"),
        [(1, 1), (1, 64), (1, 64)],
        r"input_ids from \(1, 1\) to \(1, 64\) in profile 0",
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_nothing_is_bound_to_an_engine_that_is_another(
    case: str, artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    what, answer, message = DIFFERENCES[case]
    install(monkeypatch, artifacts["engine"]).changed[what] = answer
    with pytest.raises(ArtifactError, match=message):
        open_backend(Artifact.open(artifacts["engine"]), "tensorrt")


def test_an_engine_whose_slots_are_not_aligned(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = change(max_length=LENGTH + 1)
    install(monkeypatch, path)
    with pytest.raises(ArtifactError, match=r"has slots of 97 positions, which are not aligned"):
        open_backend(Artifact.open(path), "tensorrt")


def test_an_empty_engine(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    path = change()
    (path / "SM89.engine").write_bytes(b"")
    manifest = json.loads((path / MANIFEST_NAME).read_text())
    for entry in manifest["files"]:
        entry["size"] = 0 if entry["role"] == "engine" else entry["size"]
    (path / MANIFEST_NAME).write_text(json.dumps(manifest))
    install(monkeypatch, path)
    with pytest.raises(ArtifactError, match=r"SM89.engine: cannot be read: cannot mmap an empty"):
        open_backend(Artifact.open(path), "tensorrt")


def test_an_engine_outside_of_the_artifact(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    path = change(path="../SM89.engine")
    install(monkeypatch, path)
    with pytest.raises(ArtifactError, match=r"names no file of the engine \.\./SM89.engine"):
        open_backend(Artifact.open(path), "tensorrt")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"slots": ROWS + 1}, r"decodes 3 sequences at most, not 4; .* --max-batch"),
        (
            {"context": LENGTH + 1},
            r"must be from 2 to 96, which its engine was built for \(--max-len\)",
        ),
        ({"context": 1}, r"must be from 2 to 96"),
        ({"budget": 0.0}, r"memory budget must be"),
    ],
)
def test_wishes_beyond_the_engine(
    wish: dict[str, Any],
    message: str,
    artifacts: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, artifacts["engine"])
    with pytest.raises(InvalidSetting, match=message):
        open_backend(Artifact.open(artifacts["engine"]), "tensorrt", **wish)


def test_a_shorter_context_in_slots_of_the_engines_length(
    artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, artifacts["engine"])
    artifact = Artifact.open(artifacts["engine"])
    short, whole = (open_backend(artifact, "tensorrt", slots=2, context=n) for n in (50, None))
    assert (short.capacity, whole.capacity) == (50, LENGTH)
    assert short.cache_bytes == whole.cache_bytes


@pytest.mark.parametrize("missing", ["library", "architecture"])
def test_cuda_is_taken_only_when_told(
    missing: str,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = change(architecture="SM86" if missing == "architecture" else "SM89")
    install(monkeypatch, path)
    if missing == "library":
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with caplog.at_level(logging.INFO, "rbee.backend"):
        engine = Engine.load(path, backend="tensorrt", fallback="cuda", slots=2, context_length=64)
        with engine:
            assert engine.backend_name == "cuda"
            text = "".join(engine.generate("abc", max_tokens=5))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "standard graph on cuda device 0, as --fallback says: " in record.message
    with Engine.load(path, backend="cuda", slots=2, context_length=64) as engine:
        assert "".join(engine.generate("abc", max_tokens=5)) == text


def test_the_graph_on_cuda_computes_what_the_engine_does(
    artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, artifacts["engine"])
    artifact = Artifact.open(artifacts["engine"])
    logits = [logits_of(open_backend(artifact, name, slots=2)) for name in ("tensorrt", "cuda")]
    np.testing.assert_array_equal(*logits)


def test_what_is_made_for_cuda_falls_back_to_it(
    artifacts: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(opening, "open_cuda", lambda index: CudaOnHost(FakeCuda(), index))
    artifact = Artifact.open(artifacts["cuda"])
    with caplog.at_level(logging.INFO, "rbee.backend"):
        backend = open_backend(artifact, "tensorrt", slots=1, context=64, fallback="cuda")
    assert backend.name == "cuda"
    assert not isinstance(backend, TensorRtBackend)
    assert "as --fallback says: " in caplog.records[0].message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpu", "compiled for tensorrt; for the CPU, export without --target"),
        (None, "compiled for tensorrt, and no NVIDIA driver is here; for the CPU"),
    ],
)
def test_without_a_gpu(
    name: str | None,
    message: str,
    artifacts: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "has_driver", lambda: False)
    with pytest.raises(DeviceError, match=message):
        open_backend(Artifact.open(artifacts["engine"]), name)


def test_without_an_engine_the_provider_builds_one(
    artifacts: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = install(monkeypatch, artifacts["engine"])
    artifact = Artifact.open(artifacts["graph"])
    assert not artifact.manifest.engines
    with caplog.at_level(logging.INFO, "rbee.backend"):
        # Slots have a position more, which aligns them.
        backend = open_backend(artifact, "tensorrt", context=95)
    assert (backend.name, backend.slots, backend.capacity) == ("tensorrt", 8, 95)
    (cache,) = (tmp_path / "rbee" / "engines").iterdir()
    assert str(cache) in caplog.records[0].message
    assert not fake.steps
    engine = open_backend(Artifact.open(artifacts["engine"]), "tensorrt")
    np.testing.assert_array_equal(logits_of(backend), logits_of(engine))


class GpuOnPaper(CudaOnHost):
    memory_name = "cuda"


def test_what_the_provider_is_told(
    artifacts: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, str]]] = []

    class Session:
        def __init__(
            self, graph: Path, options: Any, providers: list[Any], enable_fallback: bool
        ) -> None:
            assert not enable_fallback
            told.extend(provider for provider in providers if isinstance(provider, tuple))

        def get_providers(self) -> list[str]:
            return [*(name for name, _ in told), "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Session)
    graph = artifacts["graph"] / "model.onnx"
    model = model_options(Artifact.open(artifacts["graph"]).manifest, LENGTH, ROWS, 40)
    assert model["trt_profile_min_shapes"].startswith(
        "input_ids:1x1,write_indices:1,nonpad_kv_seqlen:1,past_key.0:1x2x96x16,past_value.0:"
    )
    assert model["trt_profile_max_shapes"].startswith("input_ids:3x40,write_indices:3,")
    assert model["trt_fp16_enable"] == "1"
    assert model["trt_bf16_enable"] == model["trt_int8_enable"] == "0"
    options = TensorRtOptions(tmp_path, model, {"capacity": LENGTH})
    open_session(graph, GpuOnPaper(FakeCuda()), tensorrt=options)
    (first, own), (second, rest) = told
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert own["trt_engine_cache_path"] == own["trt_timing_cache_path"] == str(tmp_path)
    assert own["user_compute_stream"] == rest["user_compute_stream"] == "77"
    assert own.items() >= model.items()
    assert rest["enable_cuda_graph"] == "0"
