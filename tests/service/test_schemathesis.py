"""The real worker keeps to its document, asked by a program that reads only that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import REAL, started
from support.makers import MakeArtifact, MakeEncoder

from rbee_bench.hive_stand_in import Hive

SECRET = "t0ken-of-the-test"
MODEL = "hf:test/tiny"
READY = "/v1/workers/ready"

CONFIG = f"""
[auth.openapi.token]
bearer = "{SECRET}"

[checks.not_a_server_error]
# Documented: not now, and too late.
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

[checks.use_after_free]
# A job that was cancelled before its stream still has one: it says so.
enabled = false

[checks.unsupported_method]
# What is no route asks for the token first, and is not sent it; see test_openapi.
enabled = false

[phases.coverage]
unexpected-methods = []

[[operations]]
# Two thousand cases for their fifty members, most of which are refused alike.
include-tag = ["OpenAI", "Anthropic", "Reranking"]
phases.coverage.enabled = false

[[operations]]
# Their bodies are that of /v1/inference.
include-operation-id = ["create_job", "infer"]
phases.coverage.enabled = false
"""
OF_THE_OTHER_KIND = """
[[operations]]
# These answer that the model is of another kind.
include-operation-id = {}
checks.positive_data_acceptance.enabled = false
"""
NOT_LOOKED_AT = """
[[operations]]
# What only a language model is asked with may be anything.
include-operation-id = ["create_job", "inference"]
checks.negative_data_rejection.enabled = false
"""
RERANKS = ["rerank", "rerank_v2"]
OTHERS = {
    "language": ["embeddings", *RERANKS],
    "embedding": ["chat", "completions", "responses", "messages", "count", "infer", *RERANKS],
}


@pytest.fixture
def model(
    request: pytest.FixtureRequest,
    tiny_artifact: Path,
    make_encoder: MakeEncoder,
    make_embedder: MakeArtifact,
) -> Path:
    language = request.getfixturevalue("kind") == "language"
    return tiny_artifact if language else make_embedder(make_encoder())


@pytest.mark.parametrize("kind", ["language", "embedding"])
def test_it_keeps_to_its_document(kind: str, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    rules = CONFIG + OF_THE_OTHER_KIND.format(OTHERS[kind])
    config.write_text(rules if kind == "language" else rules + NOT_LOOKED_AT)
    flags = ["--model", str(model), "--port", "0", "--host", "127.0.0.1"]
    flags += ["--model-ref", MODEL, "--backend", "cpu"]
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    with Hive() as hive:
        flags += ["--callback-url", hive.url + READY]
        with started(REAL, *flags, environment={"LLORCH_API_TOKEN": SECRET}) as worker:
            [report] = hive.wait_for(READY, timeout=30.0)
            asked = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                    *("run", f"{report.body['url']}/docs/openapi.json"),
                    *("--generation-deterministic", "--max-examples", "5", "--no-color"),
                    # The only models there may be asked for are few among all texts.
                    *("--suppress-health-check", "filter_too_much"),
                ],
                cwd=tmp_path,
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(folders),
                    "SCHEMATHESIS_HOOKS": "fitting_requests",
                    "SERVED_MODEL": MODEL,
                    "SERVED_KIND": kind,
                },
                capture_output=True,
                text=True,
                check=False,
            )
            assert worker.process.poll() is None
            said = worker.said()
    assert asked.returncode == 0, asked.stdout
    assert re.search(r"Tested: 22\b", asked.stdout), asked.stdout
    assert "Traceback" not in said
