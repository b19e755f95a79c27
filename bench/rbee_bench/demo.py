"""``make run``: start the worker, ask it one question over HTTP, leave it serving."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rbee_bench.local_process import plain_environment
from rbee_runtime import Artifact, Tokenizer

_SYSTEM = "You are a helpful assistant."


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration and return the worker's exit code."""
    parser = argparse.ArgumentParser(prog="python -m rbee_bench.demo", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="an artifact directory")
    parser.add_argument("--port", type=int, default=8085, help="any but 0: it is asked for there")
    parser.add_argument("--prompt", default="What is the capital of France?")
    arguments = parser.parse_args(argv)
    if arguments.port == 0:
        parser.error("--port 0 would be another than the one that is asked; name one")
    url = f"http://127.0.0.1:{arguments.port}"
    console = Console(highlight=False)
    name = f"demo-{os.getpid()}"
    command = [sys.executable, "-m", "rbee_service", "--model", str(arguments.model)]
    command += ["--port", str(arguments.port), "--worker-id", name]
    log = arguments.model.parent / "worker.log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(command, stderr=stream, env=plain_environment())
    # Ctrl-C reaches the worker too; it stops by itself, and this program waits for that.
    signal.signal(signal.SIGINT, lambda *_: None)
    # What ends this program alone, or a terminal that is closed, does not end the worker.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: worker.terminate())
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            if _wait_until_ready(client, worker, name, console):
                _ask(client, arguments.model, arguments.prompt, console)
                console.print(_farewell(url, log), soft_wrap=True)
        code = worker.wait()
        if code != 0:
            said = log.read_text(errors="replace").rstrip()
            console.print(said, style="red", markup=False, soft_wrap=True)
            if "choose another with --port" in said:
                other = arguments.port % 65535 + 1
                console.print(f"With make: make run PORT={other}", style="red", soft_wrap=True)
        return code
    finally:
        if worker.poll() is None:
            worker.terminate()
            worker.wait()


def _farewell(url: str, log: Path) -> str:
    request = '{"job_id":"1","prompt":"Once upon a time","max_tokens":64}'
    return (
        f"\n[bold]serving on {url}[/bold], log in {log}; Ctrl-C stops it. Ask it something else:\n"
        f"  curl -N {url}/v1/inference -d '{request}'"
    )


def _wait_until_ready(
    client: httpx.Client, worker: subprocess.Popen[bytes], name: str, console: Console
) -> bool:
    """Show how loading goes on; return whether the worker of this name became ready."""
    with Progress(TextColumn("loading"), BarColumn(), console=console, transient=True) as bars:
        task = bars.add_task("loading", total=None)
        while worker.poll() is None:
            try:
                if client.get("/info").json()["id"] != name:
                    raise ValueError("another worker has the port")
                if client.get("/v1/ready").json()["ready"]:
                    return True
                for event in _events(client, "GET", "/v1/loading/progress"):
                    bars.update(
                        task,
                        completed=event.get("layers_loaded", 0),
                        total=event.get("layers_total"),
                    )
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                # The port is not open yet, or is another program's: then the worker gives up soon.
                # Nothing announces either.
                time.sleep(0.05)
    return False


def _ask(client: httpx.Client, model: Path, prompt: str, console: Console) -> None:
    body = {
        "job_id": "demo",
        "prompt": _chat(model, prompt),
        "max_tokens": 256,
        "temperature": 0.0,
    }
    console.print(f"\n{prompt}", style="bold", markup=False)
    rate = 0.0
    for event in _events(client, "POST", "/v1/inference", body):
        if event["type"] == "output":
            console.print(event["t"], end="", markup=False, soft_wrap=True)
        elif event["type"] == "metrics":
            rate = event["tokens_per_sec"]
        elif event["type"] == "error":
            console.print(f"{event['code']}: {event['message']}", style="red", markup=False)
    console.print(f"\n\n{rate:.0f} tokens/s", style="green")


def _chat(model: Path, prompt: str) -> str:
    """Put the question into the model's chat form: the worker takes prompts as they are."""
    artifact = Artifact.open(model)
    manifest = artifact.manifest
    if manifest.chat_template is None:
        return prompt
    tokenizer = Tokenizer.open(
        artifact.file("tokenizer"), manifest.chat_template, manifest.bos_token_id, None
    )
    return tokenizer.render_chat(
        [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}]
    )


def _events(
    client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a server-sent stream up to its ``[DONE]``."""
    with client.stream(method, path, json=body) as response:
        if response.is_error:
            response.read()
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                raise SystemExit(f"{path} answered {response.status_code}: {response.text}")
            return
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data not in ("", line, "[DONE]"):
                yield json.loads(data)


if __name__ == "__main__":
    sys.exit(main())
