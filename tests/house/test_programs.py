"""The programs as they are installed, in the moment before they are there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ["json", "pydantic", "numpy", "onnxruntime", "structlog", "onnx_ir"]


def start(script: str, then: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start an installed program that meets with something whenever it imports a heavy library."""
    module, function = SCRIPTS[script].split(":")
    program = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name in {HEAVY} or name.startswith('numpy.'):\n"
        f"            {then}\n"
        f"from {module} import {function}\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.exit({function}())\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_is_imported_before_there_is_somebody_to_take_an_interrupt(script: str) -> None:
    told = start(script, "os.kill(os.getpid(), signal.SIGINT)", "--model", "m")
    expected = 0 if "worker" in script else 130
    assert (told.returncode, told.stdout, told.stderr) == (expected, "", "")


def test_a_worker_is_told_to_stop_while_it_imports() -> None:
    told = start("rbee-worker", "os.kill(os.getpid(), signal.SIGTERM)", "--model", "m")
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    """As in a script's background, whose terminal's Ctrl-C is for others."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        told = start("rbee-generate", "os.kill(os.getpid(), signal.SIGINT)", "--help")
    finally:
        signal.signal(signal.SIGINT, before)
    assert told.returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("MemoryError", "out of memory; give the process more memory (ulimit -v)"),
        (
            "ImportError('Error importing:\\n\\nlibx.so: failed to map segment\\n')",
            "a library cannot be loaded: libx.so: failed to map segment; give the process more "
            "memory (ulimit -v), or install the program again",
        ),
    ],
)
def test_a_program_that_has_not_the_memory_to_start(script: str, failure: str, why: str) -> None:
    told = start(script, f"raise {failure}", "--model", "m")
    name = "rbee-worker" if "worker" in script else script
    assert told.returncode in {1, 3}
    assert (told.stdout, told.stderr) == ("", f"{name}: {why}\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    told = start(script, "pass", "--help")
    assert told.returncode == 0
    assert told.stdout.startswith("usage: ")


@pytest.mark.parametrize("script", sorted(SCRIPTS.keys() - {"rbee-bench"}))
def test_version(script: str) -> None:
    told = start(script, "pass", "--version")
    assert re.fullmatch(r"rbee-(embed|export|generate|worker) \d+\.\d+\.\d+\n", told.stdout)
    assert (told.returncode, told.stderr) == (0, "")


def test_a_terminal_that_lacks_a_character_gets_its_escape(tiny_artifact: Path) -> None:
    """``inspect`` writes an ellipsis, which Latin-1 does not have."""
    program = "import sys, rbee_programs; sys.exit(rbee_programs.export())"
    told = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(tiny_artifact)],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert b"\\u2026" in told.stdout
