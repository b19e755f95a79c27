"""``rbee-generate``: one prompt, one answer, one line when it fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.makers import MakeToolArtifact
from support.tiny_llama import copy_of

from rbee_runtime.cli import main
from rbee_runtime.constraint import AfterReasoning
from rbee_runtime.engine import Engine
from rbee_runtime.events import Finished, Piece, StopReason
from rbee_runtime.request import GREEDY, Request


@pytest.fixture(autouse=True)
def nothing_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())


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
        (["Hi", "--model", "ARTIFACT", "--backend", "abacus"], 2, "'abacus' is not known"),
        (["Hi", "--model", "gone"], 3, "gone: no such artifact directory"),
        (["Hi"], 2, "see rbee-generate --help"),
        (["--model", "ARTIFACT"], 2, "standard input holds none"),
        (["--model", "ARTIFACT", "-"], 2, "standard input holds none"),
        (["Hi", "--model", "ARTIFACT", "--seed", "x"], 2, "see rbee-generate --help"),
        (["Hi", "--model", "ARTIFACT", "--interactive"], 2, "either a prompt or --interactive"),
        (["--model", "ARTIFACT", "--interactive", "--raw"], 2, "--raw does not go with"),
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


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("given", [[], ["-"]])
def test_the_prompt_may_come_from_standard_input(
    given: list[str],
    tiny_artifact: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--model", str(tiny_artifact), "--max-tokens", "9"]
    expected = run(capsys, "Once upon\na time", *flags)[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon\na time\n"))
    assert run(capsys, *given, *flags)[:2] == expected


def test_nobody_is_waited_for_who_knows_of_nothing(
    tiny_artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("x"))
    code, _, err = run(capsys, "--model", tiny_artifact)
    assert code == 2
    assert "give a prompt, or - to read it from standard input, or --interactive" in err
    unset = io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", unset)
    code, _, err = run(capsys, "--model", tiny_artifact)
    assert (code, err.count("\n")) == (2, 1)
    assert "standard input cannot be read: it is not text" in err


@pytest.mark.parametrize("flags", [[], ["--interactive"]])
def test_a_template_that_takes_no_system_message(
    flags: list[str],
    tiny_artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Gemma's: who asks for none gets none."""
    artifact = copy_of(tiny_artifact, tmp_path)
    manifest = json.loads((artifact / "artifact.json").read_text())
    manifest["chat_template"] = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + manifest["chat_template"]
    )
    (artifact / "artifact.json").write_text(json.dumps(manifest))
    flags = ["--max-tokens", "9", *flags]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    expected = run(capsys, *flags, "--model", tiny_artifact, "--system", "")[:2]
    for system in ([], ["--system", ""]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
        assert run(capsys, *flags, "--model", artifact, *system)[:2] == expected
    assert expected[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    assert "no system" in run(capsys, *flags, "--model", artifact, "--system", "Be brief.")[2]


def test_the_end_of_a_chat_ends_its_line(
    tiny_artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    code, out, _ = run(capsys, "--model", tiny_artifact, "--interactive")
    assert (code, out) == (0, "> \n")


def test_a_chat(
    tiny_artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = ["Hello there", "", "far too much " * 200, "And then?"]
    with Engine.load(tiny_artifact) as engine:
        messages = [{"role": "system", "content": "Be brief."}]
        answers = []
        for text in (turns[0], turns[3]):
            messages.append({"role": "user", "content": text})
            prompt = engine.tokenizer.render_chat(messages)
            answers.append("".join(engine.generate(prompt, max_tokens=9)))
            messages.append({"role": "assistant", "content": answers[-1]})
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(turns)))
    flags = ("--interactive", "--max-tokens", "9", "--system", "Be brief.")
    code, out, err = run(capsys, "--model", tiny_artifact, *flags)
    assert (code, out) == (0, "".join(f"{answer}\n" for answer in answers))
    told = err.splitlines()
    assert len(told) == 4
    assert "Ctrl-D" in told[0]
    assert "exceeds the context length" in told[2]
    # The second turn runs only what is new.
    assert "of them known" not in told[1]
    assert "of them known" in told[3]


def test_an_answer_that_is_interrupted_is_the_turns_answer(
    tiny_artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, seen = Engine.stream, []

    def interrupted(self: Engine, request: Request) -> Iterator[Any]:
        seen.append(request.prompt)
        for event in stream(self, request):
            yield event
            if len(seen) == 1 and isinstance(event, Piece):
                raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stream", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("One\nTwo\n"))
    code, out, _ = run(capsys, "--model", tiny_artifact, "--interactive", "--max-tokens", "9")
    assert code == 0
    first = out.splitlines()[0]
    assert f"{first}" in seen[1]
    assert len(out.splitlines()) == 2


THINKS = ("<thi", "nk>\n", "Well", ".\n</think>", "\n\n", "Hi")


@pytest.fixture
def thinker(
    make_tool_artifact: MakeToolArtifact, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[Request]]:
    """Return a model that thinks, and what it is asked for: its words are put into its mouth."""
    asked: list[Request] = []

    def stream(self: Engine, request: Request) -> Iterator[Any]:
        asked.append(request)
        over = request.prompt.rstrip().endswith("</think>")  # type: ignore[union-attr]
        yield from (Piece(text, 1) for text in (THINKS[-1:] if over else THINKS))
        yield Finished(StopReason.EOS, None, 5, 0, 6, 0.1, 0.1)

    monkeypatch.setattr(Engine, "stream", stream)
    return make_tool_artifact("qwen3"), asked


def test_what_it_thinks_goes_to_standard_error(
    thinker: tuple[Path, list[Request]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, asked = thinker
    schema = tmp_path / "schema.json"
    schema.write_text("{}")
    code, out, err = run(capsys, "Hello", "--model", model, "--json-schema", schema)
    assert (code, out) == (0, "Hi\n")
    assert err.startswith("Well.\n\n5 prompt tokens")
    assert isinstance(asked[0].constraint, AfterReasoning)
    assert asked[0].max_tokens is None


@pytest.mark.parametrize(
    ("variable", "value", "thought"),
    [
        ("TERM", "xterm", "\x1b[2mWell\x1b[22m\x1b[2m.\x1b[22m"),
        ("TERM", "dumb", "Well."),
        ("NO_COLOR", "1", "Well."),
    ],
)
def test_a_terminal_shows_it_dimmed(
    variable: str,
    value: str,
    thought: str,
    *,
    thinker: tuple[Path, list[Request]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nAnd?\n"))
    model, asked = thinker
    code, _, _ = run(capsys, "--model", model, "--interactive")
    assert code == 0
    assert screen.getvalue().count(f"{thought}\n\nHi\n") == 2
    # Its template leaves out what was thought before the last question.
    assert "Hi<" in asked[1].prompt
    assert "Well" not in asked[1].prompt


def test_it_may_be_told_not_to_think(
    thinker: tuple[Path, list[Request]], tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "Hello", "--model", thinker[0], "--no-thinking")
    assert (code, out, err.startswith("5 prompt tokens")) == (0, "Hi\n", True)
    assert thinker[1][0].max_tokens == 256
    assert run(capsys, "Hello", "--model", tiny_artifact, "--no-thinking")[0] == 0
    code, _, err = run(capsys, "Hello", "--model", tiny_artifact, "--no-thinking", "--raw")
    assert (code, err.count("\n"), "--raw leaves out" in err) == (2, 1, True)


def test_the_console_script_and_its_imports(tiny_artifact: Path) -> None:
    program = Path(sys.executable).with_name("rbee-generate")
    command = [str(program), "Hi", "--model", str(tiny_artifact), "--max-tokens", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


def generate(artifact: Path, output: Any) -> tuple[int, str]:
    """Run the program with another standard output; return its exit code and what it says."""
    command = [sys.executable, "-m", "rbee_runtime.cli", "Hi", "--model", str(artifact)]
    done = subprocess.run(
        [*command, "--max-tokens", "9"],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_an_answer_that_cannot_be_written(tiny_artifact: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        told = generate(tiny_artifact, full)
    assert told == (1, "rbee-generate: standard output: No space left on device\n")


def test_a_reader_who_leaves(tiny_artifact: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert generate(tiny_artifact, writing) == (0, "")
    finally:
        os.close(writing)


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, rbee_runtime.cli\n"
        "print({'torch', 'transformers', 'sanic', 'gguf', 'onnx_ir'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
