"""Which servers there are, and how each is started at its best."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rbee_bench.step_by_step import STEP_BY_STEP_FLAGS


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A server to start.

    Attributes:
        label: Its name in tables.
        ours: Whether it is the compiled worker.
        command: What starts it; ``{port}`` stands for the port to listen on.
        note: What is to be known of it when its figures are read; may be empty.
        variables: What it finds in its environment, besides what there is.
        slow: Whether its start takes most of a minute, and the first of all more.
        fault: Why it cannot be started here, in one line; empty if nothing is known to be in the
            way.
    """

    label: str
    ours: bool
    command: tuple[str, ...]
    note: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    fault: str = ""

    def at(self, port: int) -> list[str]:
        """Return the command for this port."""
        return [part.replace("{port}", str(port)) for part in self.command]


def worker(precision: str, artifact: Path) -> ServerSpec:
    """Describe the compiled worker on an artifact, at its defaults, but for guesses of tokens."""
    command = (sys.executable, "-m", "rbee_service", "--model", str(artifact), "--port", "{port}")
    return ServerSpec(precision, True, (*command, *STEP_BY_STEP_FLAGS))


def python_server(gguf: Path, context: int, threads: int, *, keep_prompts: bool) -> ServerSpec:
    """Describe the server of llama.cpp's Python binding.

    Its defaults would compute the logits of every prompt token and break off an answer when the
    next request comes; neither would be fair to it.

    Args:
        gguf: The model.
        context: Positions of its one sequence.
        threads: Threads it computes with.
        keep_prompts: Whether it keeps the state after prompts, for those that begin alike.
    """
    settings = {
        "host": "127.0.0.1",
        "port": "{port}",
        "model": str(gguf),
        "n_ctx": str(context),
        "n_threads": str(threads),
        "n_threads_batch": str(threads),
        "flash_attn": "True",
        "logits_all": "False",
        "interrupt_requests": "False",
        "disable_ping_events": "True",
        "cache": str(keep_prompts),
        "verbose": "False",
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return ServerSpec(
        "llama.cpp, its Python server",
        False,
        (sys.executable, "-m", "llama_cpp.server", *options),
        "answers one request after the other",
    )


def llama_server(gguf: Path, context: int, threads: int, slots: int) -> ServerSpec:
    """Describe llama.cpp's own server, where ``llama-server`` is on the path.

    Args:
        gguf: The model.
        context: Positions of each sequence.
        threads: Threads it computes with.
        slots: Sequences at a time.
    """
    program = shutil.which("llama-server") or "llama-server"
    command = [program, "--model", str(gguf), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--threads", str(threads), "--parallel", str(slots)]
    return ServerSpec(
        "llama.cpp, llama-server", False, (*command, "--ctx-size", str(context * slots))
    )
