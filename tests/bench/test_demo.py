"""``make run`` shows its own worker, whatever else is on the port or in the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rbee_bench.demo import main
from rbee_bench.local_process import free_port

ROOT = Path(__file__).parents[2]


class OtherWorker(BaseHTTPRequestHandler):
    """Answers as a worker that is ready."""

    def do_GET(self) -> None:
        body = json.dumps({"id": "other", "ready": True, "state": "idle"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another worker listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherWorker) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def demo(artifact: Path, port: int) -> list[str]:
    program = [sys.executable, "-m", "rbee_bench.demo"]
    return [*program, "--model", str(artifact), "--port", str(port)]


def test_another_worker_on_the_port_is_not_shown(tiny_artifact: Path, taken: int) -> None:
    done = subprocess.run(
        demo(tiny_artifact, taken), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "serving on" not in done.stdout
    assert f"port {taken}: Address already in use; choose another with --port" in done.stdout
    assert done.stdout.endswith(f"With make: make run PORT={taken + 1}\n")


def test_what_the_shell_has_set_for_workers_changes_nothing(tiny_artifact: Path) -> None:
    port = free_port()
    shown = subprocess.Popen(
        demo(tiny_artifact, port),
        env=os.environ
        | {"LLORCH_API_TOKEN": "secret", "RBEE_SSE_DIALECT": "token", "RBEE_PORT": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert shown.stdout is not None
    said: list[str] = []
    try:
        for line in shown.stdout:
            said.append(line)
            if "curl" in line:
                break
    finally:
        os.killpg(shown.pid, signal.SIGINT)
        assert shown.wait(30) == 0
    text = "".join(said)
    answer = text.split("capital of France?\n")[1].split("tokens/s")[0]
    assert len(answer.splitlines()[0]) > 1
    assert f"serving on http://127.0.0.1:{port}," in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_leaves_no_worker_behind(number: signal.Signals, tiny_artifact: Path) -> None:
    port = free_port()
    with subprocess.Popen(demo(tiny_artifact, port), stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        assert any("curl" in line for line in shown.stdout)
        shown.send_signal(number)
        assert shown.wait(30) == 0
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_that_nobody_knows(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", str(tiny_artifact), "--port", "0"])
    assert "name one" in capsys.readouterr().err


def test_a_question_is_asked_as_it_is(tmp_path: Path) -> None:
    question = 'Why "do  quotes"; exist? `echo x` \\n'
    told = tmp_path / "told.json"
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv, open({str(told)!r}, 'w'))\n"
    )
    program.chmod(0o755)
    (tmp_path / "artifact.json").touch()
    made = [f"BIN={tmp_path}", f"ARTIFACT={tmp_path}", "-o", ".venv/worker"]
    subprocess.run(["make", "-C", ROOT, "run", *made, f"PROMPT={question}"], check=True)
    assert json.loads(told.read_text())[-1] == question
