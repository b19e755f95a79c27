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


def test_each_result_becomes_a_picture_and_batches_become_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    decode = {"tokens": 128, "context": 32, "rows": [_row("int4"), _row("other", ours=False)]}
    rows = [_row("int4", length=length) for length in (32, 256)]
    files = [
        _write(tmp_path / "one.json", decode=decode),
        _write(tmp_path / "two.json", prefill={"lengths": [32, 256], "rows": rows}),
    ]
    for size in (1, 4):
        rows = [_row("int4", sequences=size), _row("alone", sequences=1)]
        batch = {"sequences": size, "context": 32, "tokens": 8, "rows": rows}
        files.append(_write(tmp_path / f"batch-{size}.json", batch=batch))
    out = tmp_path / "pictures"
    assert main(["plot", *map(str, files), "--out", str(out)]) == 0
    names = ["one.png", "two.png", "batch.png"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    for name in names:
        width, height = _size(out / name)
        assert width > 800
        assert height > 300
    assert _size(out / "two.png")[0] > _size(out / "one.png")[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not a result that rbee-bench wrote"),
        ("[]", "not a result that rbee-bench wrote"),
        ('{"machine": {}, "start": {}}', "no result of decode, prefill or batch"),
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
