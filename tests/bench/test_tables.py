"""The tables of documents are what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbee_bench.cli import main
from rbee_bench.tables import rewrite

_ROOT = Path(__file__).parents[2]
_MACHINE = {"cpu": "A Processor", "cores": 2, "python": "3.11"}


def _keep(directory: Path, kind: str, result: dict[str, Any], name: str = "") -> None:
    document = {"command": ["rbee-bench", kind], "machine": _MACHINE, kind: result}
    (directory / f"{name or kind}.json").write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_a_document_says_what_the_results_say(name: str, tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text((_ROOT / name).read_text())
    assert not rewrite(document, _ROOT / "bench" / "results"), (
        f"rbee-bench tables {name} bench/results"
    )


def test_a_table_is_replaced_and_the_rest_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        "Before.\n<!-- rbee-bench prefill -->\nold\n<!-- end -->\nBetween.\n"
        "<!-- rbee-bench cold -->\nold\n<!-- end -->\nAfter.\n"
    )
    results = tmp_path / "results"
    results.mkdir()
    rows = [
        {"label": "int4", "ours": True, "length": length, "rates": [100.0 * length]}
        for length in (32, 256)
    ] + [{"label": "other", "ours": False, "length": 32, "rates": [7.0, 8.0, 9.0]}]
    _keep(results, "prefill", {"lengths": [32, 256], "rows": rows[:1]}, "2026-01")
    _keep(results, "prefill", {"lengths": [32, 256], "rows": rows}, "2026-02")
    assert main(["tables", str(document), str(results)]) == 0
    assert "written anew" in capsys.readouterr().out
    text = document.read_text()
    assert text.startswith("Before.\n<!-- rbee-bench prefill -->\n| reading one prompt")
    assert "| **`int4`** | **3200** | **25600** |" in text
    assert "| other | 8 | |" in text
    assert "2 cores of A Processor, Python 3.11." in text
    # What nobody measured is left empty.
    assert "Between.\n<!-- rbee-bench cold -->\n<!-- end -->\nAfter.\n" in text
    assert main(["tables", str(document), str(results)]) == 0
    assert "as it was" in capsys.readouterr().out
    assert document.read_text() == text


def test_every_table_can_be_written(tmp_path: Path) -> None:
    waits = {"p50": 0.5, "p95": 1.0, "p99": 2.0}
    row = {"label": "int4", "ours": True, "rates": [50.0], "seconds": [1.5], "conversion": None}
    row |= {"serving_bytes": 10**8, "peak_bytes": 2 * 10**8, "sequences": 4, "throughput": 99.0}
    row |= dict.fromkeys(("first", "between", "whole", "unknown", "shared", "continued"), waits)
    _keep(tmp_path, "parity", {"tokens": 64, "agreed": [64, 63]})
    start = {"seconds": [1.0], "weights_bytes": 10**8, "generated_bytes": 3 * 10**8}
    _keep(tmp_path, "start", start)
    _keep(tmp_path, "decode", {"parts": [{"rows": [row]}]})
    close = {"label": "int4", "divergence": 0.1311, "agreement": 0.788}
    _keep(tmp_path, "fidelity", {"tokens": 1024, "rows": [close]})
    part = {"sequences": 4, "rows": [row]}
    _keep(tmp_path, "batch", {"context": 128, "tokens": 32, "parts": [part]})
    note = {"other": "answers one after the other"}
    arrivals = {"requests": 40, "notes": note, "rows": [{**row, "rate": None}, {**row, "rate": 2}]}
    _keep(tmp_path, "arrivals", arrivals)
    _keep(tmp_path, "chats", {"chats": 4, "rows": [row]})
    _keep(tmp_path, "cold", {"rows": [row]})
    prefill = {"lengths": [32, 250], "rows": [{**row, "length": n} for n in (32, 250)]}
    _keep(tmp_path, "prefill", prefill)
    works = ("alone", "together", "bulk")
    parts = [
        {"work": work, "texts": 4, "tokens": 80, "rows": [{**row, "waits": waits}]}
        for work in works
    ]
    _keep(tmp_path, "embed", {"parts": parts, "alike": {"int4": {"mean": 0.9987}}})
    names = ("facts", "overview", "decode", "batch", "arrivals", "chats", "cold", "embed")
    document = tmp_path / "document.md"
    document.write_text("".join(f"<!-- rbee-bench {name} -->\n<!-- end -->\n" for name in names))
    assert rewrite(document, tmp_path)
    text = document.read_text()
    for cells in (
        "1 of 2 prompts | `parity`",
        "| 300 MB | `start` |",
        "| prompt of 250, tokens/s | 4 at once, tokens/s |",
        "| **`int4`** | **50** | **50** | **50** | **1.5 s** | **100 MB** | **0.131** |",
        "**50** | **0.131** | **78.8 %** |",
        "| **`int4`** | **all** | **50** |",
        "**all at once** | **0.50 / 1.00** | **500 / 1000** |",
        "**2 a second** |",
        "at random times, the same for every server; other answers one after the other.",
        "| **`int4`** | **500** | **500** | **500** | **1.5** |",
        "| **`int4`** | **1.5 s** | **100 MB** | **200 MB** |",
        "| **`int4`** | **500.0 / 1000.0** | **50** | **50** | **1,000** | **0.9987** |",
    ):
        assert cells in text.replace("random\ntimes", "random times")


@pytest.mark.parametrize(
    ("text", "result", "complaint"),
    [
        ("No tables.", "{}", "not a result"),
        ("No tables.", None, "no place for a table"),
        ("<!-- rbee-bench speed -->\n<!-- end -->", None, "no table speed"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    text: str,
    result: str | None,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "document.md"
    document.write_text(text)
    if result is not None:
        (tmp_path / "some.json").write_text(result)
    assert main(["tables", str(document), str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("rbee-bench tables: ")
    assert complaint in said
    assert "\n" not in said
    assert document.read_text() == text
