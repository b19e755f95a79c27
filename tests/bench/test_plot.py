from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from rbee_bench.cli import main

_MACHINE = {"cpu": "A Processor", "cores": 2}


def _write(file: Path, **result: Any) -> Path:
    file.write_text(json.dumps({"command": [], "machine": _MACHINE, **result}))
    return file


def _row(label: str, *, ours: bool = True, **more: Any) -> dict[str, Any]:
    return {"label": label, "ours": ours, "rates": [10.0, 12.0, 11.0], **more}


def _size(picture: Path) -> tuple[int, int]:
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


_READS = {"weights": 10**8, "position": 46080, "operations": 2 * 10**8, "arithmetic": "int8"}
_ROOFS = [{"reading": 2e10, "fp32": 1e11, "int8": 3e11}] * 3
_EAGER = "eager torch fp32"


def _engines(**more: Any) -> list[dict[str, Any]]:
    return [
        _row("int4", reads=_READS, **more),
        _row("unknown", ours=False, reads=None, **more),
        _row(_EAGER, ours=False, reads={**_READS, "arithmetic": "fp32"}, **more),
    ]


def _decode(file: Path, *contexts: int) -> Path:
    parts = [{"context": size, "rows": _engines(), "roofs": _ROOFS} for size in contexts]
    return _write(file, decode={"tokens": 128, "parts": parts})


def _batch(file: Path, *sizes: int) -> Path:
    parts = [
        {
            "sequences": size,
            "rows": [*_engines(sequences=size), _row("alone", sequences=1, reads=None)],
            "roofs": _ROOFS,
        }
        for size in sizes
    ]
    return _write(file, batch={"context": 32, "tokens": 8, "parts": parts})


def _prefill(file: Path, *lengths: int) -> Path:
    rows = [row for length in lengths for row in _engines(length=length)]
    roofs = {str(length): _ROOFS for length in lengths}
    return _write(file, prefill={"lengths": list(lengths), "rows": rows, "roofs": roofs})


def test_each_result_becomes_a_picture_and_engines_are_drawn_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    files = [
        _decode(tmp_path / "one.json", 32),
        _prefill(tmp_path / "two.json", 32, 256),
        _batch(tmp_path / "batch-4.json", 4),
        _batch(tmp_path / "batch-16.json", 1, 16),
    ]
    out = tmp_path / "pictures"
    assert main(["plot", *map(str, files), "--out", str(out)]) == 0
    names = ["one.png", "two.png", "batch.png", "roofline.png", "speedup.png"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    for name in names:
        width, height = _size(out / name)
        assert width > 800
        assert height > 300
    assert _size(out / "two.png")[0] > _size(out / "one.png")[0]


def test_what_is_not_known_is_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    part = {"context": 32, "rows": [_row("int4", reads=None)], "roofs": []}
    file = _write(tmp_path / "one.json", decode={"tokens": 128, "parts": [part]})
    assert main(["plot", str(file), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "one.png")]


def test_servers_and_starts_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    waits = {"p50": 0.5, "p95": 1.0, "p99": 2.0}
    rows = [
        {"label": label, "ours": True, "rate": rate}
        | dict.fromkeys(("first", "between", "whole"), waits)
        for label in ("int4", "other")
        for rate in (None, 0.5, 2.0)
    ]
    start = {"label": "int4, worker", "ours": True, "seconds": [1.0, 1.1], "serving_bytes": 10**8}
    engine = {"label": "int4", "ours": True, "decode": [9.0], "prefill": [90.0], "batch": [30.0]}
    files = [
        _write(tmp_path / "load.json", arrivals={"rows": rows}),
        _write(tmp_path / "cold.json", cold={"rows": [start]}),
        _write(tmp_path / "quick.json", quick={"engines": [engine]}),
    ]
    assert main(["plot", *map(str, files), "--out", str(tmp_path)]) == 0
    for name in ("load", "cold", "quick"):
        assert _size(tmp_path / f"{name}.png")[0] > 600


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not a result that rbee-bench wrote"),
        ("[]", "not a result that rbee-bench wrote"),
        ('{"machine": {}, "start": {}}', "nothing to draw; it is no result of decode, prefill,"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    content: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    file.write_text(content)
    assert main(["plot", str(file), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"rbee-bench plot: {file}: ")
    assert complaint in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
