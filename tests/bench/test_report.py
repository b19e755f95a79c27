from __future__ import annotations

import dataclasses
import io

from rich.console import Console, RenderableType

from rbee_bench.agreement import Agreement
from rbee_bench.decode import Continuation, Decode, Speed
from rbee_bench.fidelity import Closeness, Fidelity
from rbee_bench.limits import Roof
from rbee_bench.parity import Parity
from rbee_bench.peers import Reads
from rbee_bench.prefill import Prefill, Reading
from rbee_bench.report import (
    decode_report,
    fidelity_report,
    parity_report,
    prefill_report,
    start_report,
)
from rbee_bench.start import Start, memory_bound

_RIGHT = Agreement("other", 24, {"int4": 0.6, "gguf": 0.95, "other": 1.0})


def _reads(weights: int) -> Reads:
    return Reads(weights, 62_500, 2 * weights, "int8")


def _roofs(*reading: float) -> tuple[Roof, ...]:
    return tuple(Roof(one, one, 10 * one) for one in reading)


_PART = Continuation(
    context=32,
    rows=(
        Speed("int4", True, "ours 1", 127, (150.0, 75.0, 151.0, 150.0), _reads(94_000_000)),
        Speed("gguf", True, "ours 1", 127, (130.0, 66.0, 132.0, 130.0), _reads(119_000_000)),
        Speed("other", False, "other 2", 127, (100.0, 50.0, 102.0, 100.0), None),
    ),
    roofs=_roofs(20e9, 10e9, 20e9, 20e9),
)


def _decode(part: Continuation, agreement: Agreement = _RIGHT, bystanders: float = 0.0) -> Decode:
    skipped = {"absent": "not installed: no module"}
    return Decode(128, (part,), agreement, skipped, bystanders)


def _steady(*, tokens: int = 127) -> Continuation:
    def without_the_second(row: Speed) -> Speed:
        return dataclasses.replace(row, rates=row.rates[:1] * 4)

    rows = [without_the_second(row) for row in _PART.rows]
    rows[2] = dataclasses.replace(rows[2], tokens=tokens)
    return Continuation(32, tuple(rows), _roofs(20e9, 20e9, 20e9, 20e9))


_START = Start(
    precision="gguf",
    seconds=(1.0, 1.25, 1.5),
    weights_bytes=100_000_000,
    cache_bytes=400_000_000,
    cache_used_bytes=4_000_000,
    ready_bytes=250_000_000,
    generated_bytes=260_000_000,
    bystanders=0.0,
)


def _shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def _row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"│ {label} " in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_decode_gives_each_of_ours_over_each_other() -> None:
    text = _shown(decode_report(_decode(_PART)))
    assert _row(text, "other")[1] == "100.0"
    assert _row(text, "other")[3:] == ["", "100%", "1.50 x", "1.30 x"]
    assert _row(text, "int4")[3:] == ["75%", "60%", "", "0.87 x"]
    assert "absent: skipped, not installed: no module" in text
    assert "ours 1; other 2" in text


def test_decode_says_when_rounds_differ_too_much() -> None:
    assert "too noisy" not in _shown(decode_report(_decode(_steady())))
    rows = (dataclasses.replace(_PART.rows[0], rates=(150.0, 75.0, 151.0, 90.0)), *_PART.rows[1:])
    text = _shown(decode_report(_decode(dataclasses.replace(_PART, rows=rows))))
    assert "too noisy to say: int4 after 32 53% spread, over 15%" in text


def test_decode_says_when_another_run_may_find_another_ratio() -> None:
    rows = (
        dataclasses.replace(_PART.rows[0], rates=(150.0, 151.0, 150.0, 149.0)),
        dataclasses.replace(_PART.rows[2], rates=(100.0, 112.0, 101.0, 111.0)),
    )
    agreement = Agreement("other", 24, {"int4": 0.6, "other": 1.0})
    text = _shown(decode_report(_decode(dataclasses.replace(_PART, rows=rows), agreement)))
    assert "another run may find 1 of 1 ratios more than 5% away" in text
    assert "int4 beside other, between 1.3" in text


def test_decode_says_that_few_rounds_say_little() -> None:
    rows = tuple(dataclasses.replace(row, rates=row.rates[:1] * 3) for row in _PART.rows)
    part = dataclasses.replace(_PART, rows=rows, roofs=_PART.roofs[:3])
    assert "fewer than 4 rounds" in _shown(decode_report(_decode(part)))


def test_decode_says_when_other_programs_were_in_the_way() -> None:
    text = _shown(decode_report(_decode(_steady(), bystanders=0.4)))
    assert "too noisy to say: other programs had 40% of the processor" in text


def test_decode_says_when_a_text_ended_early() -> None:
    text = _shown(decode_report(_decode(_steady(tokens=60))))
    assert "other after 32: its text ended early, after 61 tokens of 128" in text
    assert "ended early" not in _shown(decode_report(_decode(_steady())))


def test_an_engine_that_is_fast_and_wrong_is_marked() -> None:
    assert "wrong" not in _shown(decode_report(_decode(_steady())))
    babbling = Agreement("other", 24, {"int4": 0.0, "gguf": 0.95, "other": 1.0})
    text = _shown(decode_report(_decode(_steady(), babbling)))
    assert "int4: wrong, however fast: after 0% of 24 prompts it goes on as other does" in text


def test_decode_says_how_near_the_roofline_each_comes() -> None:
    # 94 MB of weights and 96 positions of 62.5 kB are 100 MB: 200 tokens/s at 20 GB/s.
    text = _shown(decode_report(_decode(_steady())))
    assert _row(text, "int4")[3] == "75%"
    assert _row(text, "gguf")[3] == "81%"
    assert _row(text, "other")[3] == ""
    assert "memory was read at 20.0 GB/s" in text


def test_prefill_has_a_table_for_each_length() -> None:
    # 200 Mops a token at 200 Gops/s are 1,000 tokens/s; memory is far from that.
    reads = _reads(100_000_000)
    rows = (
        Reading("int4", True, "ours 1", 32, (400.0, 410.0), reads),
        Reading("int4", True, "ours 1", 256, (600.0, 610.0), reads),
        Reading("other", False, "other 2", 32, (200.0, 205.0), None),
        Reading("other", False, "other 2", 256, (1200.0, 1220.0), None),
    )
    roofs = dict.fromkeys((32, 256), _roofs(20e9, 20e9))
    text = _shown(prefill_report(Prefill((32, 256), rows, roofs, _RIGHT, {"absent": "why"}, 0.0)))
    short, long = text.split("one prompt of 256 tokens")
    assert _row(short, "other")[1:] == ["202", "1%", "", "2.00 x"]
    assert _row(long, "other")[1:] == ["1210", "1%", "", "0.50 x"]
    assert _row(short, "int4")[1:] == ["405", "1%", "40%"]
    assert "absent: skipped, why" in text


def test_parity_names_the_prompts_that_differ() -> None:
    text = _shown(parity_report(Parity("ours 1", "torch 2", 64, (64, 17, 64))))
    assert "2 of 3 prompts" in text
    assert "prompt 2: differs from token 18 on" in text


def test_fidelity_gives_divergence_and_agreement() -> None:
    row = Closeness("gguf", "ours 1", 0.00412, 0.9612)
    text = _shown(fidelity_report(Fidelity("torch 2", 1024, (row,), {"absent": "why"})))
    assert _row(text, "gguf") == ["gguf", "0.0041", "96.1%"]
    assert "absent: skipped, why" in text


def test_start_holds_memory_to_its_bound() -> None:
    text = _shown(start_report(_START))
    assert _row(text, "until ready") == ["until ready", "1.25 s (spread 20%)", "3 s"]
    assert _row(text, "memory after 64 tokens") == ["memory after 64 tokens", "260 MB", "800 MB"]
    assert "325 MB" in text  # 1.2 x (100 + 4) + 200: with the cache that was used
    assert memory_bound(100, 50) == 200_000_180
