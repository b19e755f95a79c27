"""``rbee-generate``: one prompt, one answer, one line when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rbee_runtime.cli import main
from rbee_runtime.engine import Engine
from rbee_runtime.request import GREEDY


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize("raw", [True, False])
def test_the_answer_goes_to_standard_output(
    raw: bool, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine.load(tiny_artifact) as engine:
        prompt = "Hi"
        if not raw:
            messages = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ]
            prompt = engine.tokenizer.render_chat(messages)
        expected = "".join(engine.generate(prompt, max_tokens=12, sampling=GREEDY))
        count = len(engine.tokenizer.encode(prompt))
    flags = ["--raw"] if raw else ["--system", "Be brief."]
    code, out, err = run(capsys, "Hi", "--model", tiny_artifact, "--max-tokens", "12", *flags)
    assert code == 0
    assert out == expected + "\n"
    assert err.startswith(f"{count} prompt tokens in ")
    assert "12 tokens at " in err


def test_a_seed_repeats_an_answer(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["Hi", "--model", tiny_artifact, "--max-tokens", "9", "--temperature", "1.5"]
    first = run(capsys, *arguments, "--seed", "3")[1]
    assert run(capsys, *arguments, "--seed", "3")[1] == first
    assert run(capsys, *arguments, "--seed", "4")[1] != first


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["Hi", "--model", "ARTIFACT", "--max-tokens", "1024"], 2, "exceeds the context length"),
        (["Hi", "--model", "ARTIFACT", "--max-tokens", "0"], 2, "max_tokens must be at least 1"),
        (["Hi", "--model", "ARTIFACT", "--temperature", "9"], 2, "temperature must be in"),
        (["", "--model", "ARTIFACT", "--raw"], 2, "prompt must be not empty"),
        (["Hi", "--model", "ARTIFACT", "--stop", ""], 2, "stop must be"),
        (["Hi", "--model", "ARTIFACT", "--backend", "abacus"], 5, "'abacus'"),
        (["Hi", "--model", "gone"], 3, "gone: no such artifact directory"),
        (["Hi"], 2, "see rbee-generate --help"),
        (["--model", "ARTIFACT"], 2, "see rbee-generate --help"),
        (["Hi", "--model", "ARTIFACT", "--seed", "x"], 2, "see rbee-generate --help"),
    ],
)
def test_failures_take_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tiny_artifact: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [str(tiny_artifact) if a == "ARTIFACT" else a for a in arguments]
    got, out, err = run(capsys, *named)
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("rbee-generate: ")
    assert message in err


def test_the_console_script_and_its_imports(tiny_artifact: Path) -> None:
    program = Path(sys.executable).with_name("rbee-generate")
    command = [str(program), "Hi", "--model", str(tiny_artifact), "--max-tokens", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, rbee_runtime.cli\n"
        "print({'torch', 'transformers', 'sanic', 'gguf', 'onnx_ir'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
