"""Flags before environment before defaults, and every mistake named in one go."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee_service.auth import ApiToken
from rbee_service.options import Options, UsageFault, parse_options
from rbee_service.sse import SseDialect


def lines(*arguments: str, **environment: str) -> tuple[str, ...]:
    with pytest.raises(UsageFault) as caught:
        parse_options(arguments, environment)
    return caught.value.lines


def test_defaults() -> None:
    options = parse_options(["--model", "m"], {})
    assert options == Options(
        worker_id=options.worker_id,
        model=Path("m"),
        model_ref=None,
        backend=None,
        fallback=None,
        device=0,
        slots=None,
        context_length=None,
        memory_budget=0.5,
        cache_type=None,
        max_queue=64,
        max_prefill_chunk=256,
        draft_tokens=16,
        host="127.0.0.1",
        port=8085,
        callback_url=None,
        callback_max_retries=3,
        hive_url=None,
        queen_url=None,
        heartbeat_interval=30.0,
        sse_dialect=SseDialect.OUTPUT,
        grace=10.0,
        token=None,
        token_file=None,
        log_style="console",
    )
    assert options.worker_id != parse_options(["--model", "m"], {}).worker_id


FLAGS = {
    "worker-id": "w_1-a",
    "model": "/models/a.gguf",
    "model-ref": "hf:org/name",
    "backend": "cuda",
    "fallback": "cuda",
    "device": "3",
    "port": "9000",
    "host": "127.0.0.2",
    "callback-url": "http://hive:9200/v1/workers/ready",
    "hive-url": "http://hive:7835",
    "queen-url": "https://queen",
    "sse-dialect": "token",
    "slots": "8",
    "context-length": "4096",
    "memory-budget": "4G",
    "cache-type": "int8",
    "max-queue": "0",
    "max-prefill-chunk": "32",
    "draft-tokens": "3",
}


def test_environment_and_flags_say_the_same() -> None:
    environment = {f"RBEE_{name.replace('-', '_').upper()}": text for name, text in FLAGS.items()}
    flags = [part for name, text in FLAGS.items() for part in (f"--{name}", text)]
    by_flags = parse_options(flags, {})
    assert by_flags == parse_options([], environment)
    assert (by_flags.worker_id, by_flags.model) == ("w_1-a", Path("/models/a.gguf"))
    assert (by_flags.device, by_flags.port, by_flags.backend) == (3, 9000, "cuda")
    assert by_flags.sse_dialect is SseDialect.TOKEN


def test_a_flag_goes_before_the_environment() -> None:
    environment = {"RBEE_PORT": "1", "RBEE_MODEL": "other"}
    options = parse_options(["--model", "m", "--port=2"], environment)
    assert (options.port, options.model) == (2, Path("m"))


@pytest.mark.parametrize(
    ("text", "budget"),
    [("0.25", 0.25), ("1", 1.0), ("800M", 800 << 20), ("1.5GiB", 3 << 29), ("64kB", 64 << 10)],
)
def test_a_budget_is_a_share_or_a_size(text: str, budget: float) -> None:
    taken = parse_options(["--model", "m", "--memory-budget", text], {}).memory_budget
    assert (taken, type(taken)) == (budget, type(budget))


def test_an_empty_variable_is_none() -> None:
    assert parse_options(["--model", "m"], {"RBEE_PORT": "", "LLORCH_API_TOKEN": ""}).port == 8085


def test_the_older_name_of_device() -> None:
    assert parse_options(["--model", "m", "--cuda-device", "2"], {}).device == 2


def test_a_token_opens_the_host() -> None:
    options = parse_options(["--model", "m"], {"LLORCH_API_TOKEN": "t"})
    assert options.host == "0.0.0.0"
    assert options.token is not None
    assert options.token.header == "Bearer t"


def test_a_token_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    options = parse_options(
        ["--model", "m", "--api-token-file", str(file)], {"LLORCH_API_TOKEN": "from-env"}
    )
    assert options.token is not None
    assert options.token.fingerprint == ApiToken("from-file").fingerprint


def test_a_token_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("two words")
    [line] = lines("--model", "m", "--api-token-file", str(file))
    assert line.startswith("--api-token-file: ")
    assert "words" not in line
    [line] = lines("--model", "m", LLORCH_API_TOKEN="sécret")
    assert line.startswith("LLORCH_API_TOKEN: ")
    assert "cret" not in line
    [line] = lines("--model", "m", "--host", "0.0.0.0", "--api-token-file", str(tmp_path / "no"))
    assert "No such file" in line


def test_a_public_address_needs_a_token_or_plain_words() -> None:
    [line] = lines("--model", "m", "--host", "0.0.0.0")
    assert "LLORCH_API_TOKEN" in line
    assert "--allow-unauthenticated" in line
    flags = ["--model", "m", "--host", "0.0.0.0", "--allow-unauthenticated"]
    assert parse_options(flags, {}).token is None
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert parse_options(["--model", "m", "--host", host], {}).host == host


def test_every_mistake_is_named_at_once() -> None:
    found = lines(
        *("--worker-id", "a b", "--model-ref", "hf:../x", "--backend", "vulkan", "--device", "-1"),
        *("--port", "99999", "--callback-url", "ftp://x", "--hive-url", "nothing"),
        *("--queen-url", "http://user@x", "--sse-dialect", "morse", "--heartbeat-interval", "0"),
        *("--callback-max-retries", "many", "--grace", "-3", "--nonsense", "leftover"),
        *("--fallback", "cpu", "--cache-type", "int4"),
        RBEE_HOST="0.0.0.0",
    )
    named = " ".join(found)
    for name in (
        *("--worker-id", "--model-ref", "--backend", "--device", "--port", "--callback-url"),
        *("--hive-url", "--queen-url", "--sse-dialect", "--heartbeat-interval", "--grace"),
        *("--callback-max-retries", "--nonsense", "leftover", "--model:", "--host", "--fallback"),
        "--cache-type",
    ):
        assert name in named
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize("flag", ["--port", "--model", "--worker-id"])
def test_a_flag_without_its_value(flag: str) -> None:
    assert f"{flag}: needs a value" in lines(flag)
    assert f"{flag}: needs a value" in lines(flag, "")


def test_a_variable_is_named_as_such() -> None:
    assert lines("--model", "m", RBEE_PORT="x")[0].startswith("RBEE_PORT: ")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--worker-id", "x" * 257),
        ("--worker-id", "a/b"),
        ("--model-ref", "x" * 513),
        ("--model-ref", "a b"),
        ("--callback-url", "http://"),
        ("--callback-url", "http://x:99999/"),
        ("--callback-url", "http://x/\r\nevil"),
        ("--port", "80.0"),
        ("--slots", "0"),
        ("--memory-budget", "0"),
        ("--memory-budget", "2"),
        ("--memory-budget", "0K"),
        ("--memory-budget", "lots"),
        ("--context-length", "1"),
        ("--port", "٣"),
    ],
)
def test_refused(flag: str, value: str) -> None:
    [line] = lines("--model", "m", flag, value)
    assert line.startswith(f"{flag}: must be")
    assert line.isprintable()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(["--help"], {})
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for name in FLAGS:
        assert f"--{name}" in told
        assert f"RBEE_{name.replace('-', '_').upper()}" in told
    assert "--model PATH" in told
    assert "[PATH" not in told
