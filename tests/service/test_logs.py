"""Log lines: one event is one line, whatever a client puts into it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys
import structlog
from rbee_service.logs import configure_logging
configure_logging(sys.argv[1])
log = structlog.get_logger()
structlog.contextvars.bind_contextvars(correlation_id="c-1")
log.info("An event", job_id="a\\nb\\x1b[31m é 日本")
logging.getLogger("sanic.error").error("from a library")
logging.getLogger("httpx").info("never seen")
try:
    secret = "LOCAL"
    raise ValueError("broken")
except ValueError:
    log.exception("It failed")
"""


def output(style: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, style], capture_output=True, text=True, check=True
    )
    assert not done.stdout
    return done.stderr.splitlines()


def test_json() -> None:
    event, library, failure = (json.loads(line) for line in output("json"))
    assert event["event"] == "An event"
    assert event["job_id"] == "a\nb\x1b[31m é 日本"
    assert event["level"] == "info"
    assert event["correlation_id"] == library["correlation_id"] == "c-1"
    assert library["event"] == "from a library"
    assert "ValueError: broken" in failure["exception"]


def test_for_people() -> None:
    lines = output("console")
    assert "An event" in lines[0]
    assert "é 日本" in lines[0]
    assert "\x1b" not in lines[0]
    assert "correlation_id=c-1" in lines[0]
    assert "from a library" in lines[1]
    assert lines[-1] == "ValueError: broken"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    variables: dict[str, str], coloured: bool
) -> None:
    theirs, ours = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | variables
    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        command = [sys.executable, "-c", SCRIPT, "console"]
        subprocess.run(command, stderr=ours, env=environment, check=True)
        os.close(ours)
        assert (b"\x1b[" in terminal.read(65536)) == coloured


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_local_variables_in_tracebacks(style: str) -> None:
    assert "LOCAL" not in "\n".join(output(style))
