"""The image, as its Dockerfile's own steps make it in a clean root, and containers of it."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builder import Builder
from dockerfile import ROOT, chain, exec_form, last_of, read_stages
from image import Container, Image, Mount
from packaging.utils import canonicalize_name
from test_pinned_packages import PROJECT, demands, pins

from rbee_bench.local_process import free_port
from rbee_runtime import kernels

# Whichever test comes first has the image built.
pytestmark = pytest.mark.timeout(400)

STAGES = read_stages(ROOT / "Dockerfile.gpu")
WORKER = chain(STAGES, "worker")
OURS = "onnx-worker-rbee"
SITE = "opt/rbee/lib/python3.11/site-packages"
SECRET = "t0ken-of-the-image"


def entry(target: str) -> list[str]:
    return exec_form(last_of(chain(STAGES, target), "ENTRYPOINT"))


def packages(image: Image) -> dict[str, importlib.metadata.Distribution]:
    found = importlib.metadata.distributions(path=[str(image.root / SITE)])
    return {canonicalize_name(one.metadata["Name"]): one for one in found}


def test_it_holds_the_pinned_packages_and_ours(worker_image: Image) -> None:
    versions = {name: one.version for name, one in packages(worker_image).items()}
    own = versions.pop(OURS)
    assert versions == pins("cpu.txt")
    assert worker_image.run([*entry("worker"), "--version"]) == (0, f"rbee-worker {own}\n")


def test_nothing_is_pinned_that_nothing_demands(worker_image: Image) -> None:
    installed = packages(worker_image)
    met, blind = demands("cpu.txt", PROJECT["dependencies"], installed.__getitem__)
    assert not blind
    assert met == set(pins("cpu.txt"))


def test_of_ours_it_holds_packages_programs_and_kernels(worker_image: Image) -> None:
    files = {str(file) for file in packages(worker_image)[OURS].files or []}
    programs = {name for name in files if name.startswith("../../../bin/")}
    inside = {name.split("/")[0] for name in files - programs}
    assert {name for name in inside if not name.endswith(".dist-info")} == {
        "__pycache__",
        "rbee_bench",
        "rbee_export",
        "rbee_programs.py",
        "rbee_runtime",
        "rbee_service",
    }
    kinds = {Path(name).suffix for name in files - programs if ".dist-info/" not in name}
    assert kinds <= {".py", ".pyc", ".html", ".css", ".js", ".json", ".txt", ".so", ".typed", ".md"}
    assert not any("tests" in Path(name).parts for name in files)
    code, said = worker_image.run(
        ["python", "-c", "from rbee_runtime import kernels; print(kernels.library())"]
    )
    if kernels.variants():
        assert (code, said) == (0, f"/{SITE}/rbee_runtime/kernels/librbee_kernels.so\n")
    else:
        assert "the processor has no" in said


def test_the_build_leaves_nothing_else(builder: Builder, worker_image: Image) -> None:
    def files(root: Path) -> set[Path]:
        return {file.relative_to(root) for file in root.rglob("*") if not file.is_dir()}

    added = files(worker_image.root) - files(builder.build("base").root)
    assert added
    assert {file.parts[:2] for file in added} == {("opt", "rbee")}
    programs = {file.name for file in (worker_image.root / "opt/rbee/bin").iterdir()}
    assert not programs & {"pip", "cc", "c++", "gcc", "g++", "clang", "zig", "python-zig"}


def test_everybody_may_read_and_only_root_write(worker_image: Image) -> None:
    for path in (worker_image.root / "opt").rglob("*"):
        if path.is_symlink():
            continue
        has = path.stat()
        needed = 0o555 if path.is_dir() else 0o444
        assert has.st_mode & needed == needed, path
        assert not has.st_mode & 0o022, path
        assert not has.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert (has.st_uid, has.st_gid) == (0, 0), path


@pytest.fixture(scope="module")
def exported(
    exporter_image: Image, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the exporter's image makes of a checkpoint, in a directory that is mounted."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    artifacts.chmod(0o777)
    model = artifacts.with_name("checkpoint")
    shutil.copytree(tiny_llama, model)
    for file in model.iterdir():
        file.chmod(0o644)
    code, said = exporter_image.run(
        [*entry("exporter"), "--model", "/model", "--out", "/artifacts/tiny"],
        [Mount(model, "/model"), Mount(artifacts, "/artifacts", writable=True)],
    )
    assert code == 0, said
    assert "KL divergence" in said
    return artifacts


def test_the_exporter_says_what_it_takes(exporter_image: Image) -> None:
    code, said = exporter_image.run([*entry("exporter"), "--help"])
    assert (code, said.split()[:2]) == (0, ["usage:", "rbee-export"])


def test_an_export_belongs_to_the_image_s_user(exporter_image: Image, exported: Path) -> None:
    made = list((exported / "tiny").rglob("*"))
    assert made
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {exporter_image.user}


@pytest.fixture
def worker(worker_image: Image, exported: Path) -> Iterator[tuple[Container, dict[str, str]]]:
    """A worker of the exported model, as ``docker run --read-only`` would start it."""
    # Containers share the host's network here: another port, and the token.
    variables = {"RBEE_PORT": str(free_port()), "LLORCH_API_TOKEN": SECRET}
    command = [*entry("worker"), "--model", "/artifacts/tiny"]
    mounts = [Mount(exported, "/artifacts")]
    with worker_image.started(command, mounts, variables) as container:
        yield container, variables


def healthy(image: Image, variables: dict[str, str]) -> bool:
    """Run the image's own check, in a container beside the worker's."""
    check = exec_form(last_of(WORKER, "HEALTHCHECK").partition("CMD ")[2])
    code, said = image.run(check, variables=variables)
    assert code in (0, 1), said
    return code == 0


def test_a_worker_s_life(worker_image: Image, worker: tuple[Container, dict[str, str]]) -> None:
    container, variables = worker
    until = time.monotonic() + 60
    while not healthy(worker_image, variables):
        assert container.outside.poll() is None, container.said()
        assert time.monotonic() < until, container.said()
    main = container.main
    assert main is not None
    assert main.uids().effective == main.uids().real == worker_image.user[0]
    assert main.gids().effective == worker_image.user[1]
    url = f"http://127.0.0.1:{variables['RBEE_PORT']}"
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        asked = {"job_id": "1", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        assert client.post("/v1/inference", json=asked).status_code == 401
        client.headers["Authorization"] = f"Bearer {SECRET}"
        wait_until_ready(client)
        events = inference(client, asked)
    assert events[-1]["type"] == "end"
    assert events[-1]["items_out"] == 8
    if kernels.variants():
        assert any("librbee_kernels" in one.path for one in main.memory_maps())
    container.send(getattr(signal, last_of(WORKER, "STOPSIGNAL")))
    assert container.exit_code(20) == 0, container.said()
    assert not healthy(worker_image, variables)


def wait_until_ready(client: httpx.Client) -> None:
    until = time.monotonic() + 60
    while client.get("/v1/ready").json()["state"] != "idle":
        assert time.monotonic() < until
        time.sleep(0.05)


def inference(client: httpx.Client, asked: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/v1/inference", json=asked)
    assert answer.status_code == 200, answer.text
    *lines, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_worker_without_a_token_says_how_to_have_one(worker_image: Image, exported: Path) -> None:
    code, said = worker_image.run(
        [*entry("worker"), "--model", "/artifacts/tiny"], [Mount(exported, "/artifacts")]
    )
    assert code == 2
    assert "LLORCH_API_TOKEN" in said
    assert "--allow-unauthenticated" in said
