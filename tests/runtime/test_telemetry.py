"""Nothing is told of the machine: ONNX Runtime would send it, and keep on disk what it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.makers import MakeArtifact, MakeEncoder

PROGRAMS = {
    "embed": ["rbee_runtime.embed_cli", "Hi", "--model"],
    "generate": ["rbee_runtime.cli", "Hi", "--max-tokens", "2", "--model"],
    "verify": ["rbee_export.cli", "verify", "--model", "CHECKPOINT"],
    "worker": ["rbee_service", "--port", "0", "--callback-url", "http://127.0.0.1:9/", "--model"],
}


@pytest.fixture
def embedder(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> Path:
    return make_embedder(make_encoder(), "fp32")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_keeps_any(
    program: str, tiny_llama: Path, tiny_artifact: Path, embedder: Path, tmp_path: Path
) -> None:
    artifact = embedder if program == "embed" else tiny_artifact
    environment = {**os.environ, "HOME": str(tmp_path), "RBEE_CALLBACK_MAX_RETRIES": "0"}
    for inherited in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(inherited, None)
    arguments = [str(tiny_llama) if a == "CHECKPOINT" else a for a in PROGRAMS[program]]
    done = subprocess.run(
        [sys.executable, "-m", *arguments, str(artifact)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Nobody answers the worker that it is ready.
    assert done.returncode == (4 if program == "worker" else 0), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_who_wants_it_may_have_it() -> None:
    script = "import rbee_runtime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
