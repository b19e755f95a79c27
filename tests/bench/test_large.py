"""The measurement of large exports, on a small one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rbee_bench.cli import main
from rbee_bench.large import Case, Large, LargeFault, LargeRow, measure_large
from rbee_bench.random_checkpoint import ModelShape, write_checkpoint
from rbee_bench.report import large_report
from rbee_export import open_checkpoint


def test_exports_are_measured_and_removed(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    ballast = np.ones(70_000_000)  # the size of this process is not that of the other
    cases = (Case("int4"), Case("int8", verify=True))
    result = measure_large(tmp_path, 0.06, cases, lambda *step: seen.append(step))
    assert list(tmp_path.iterdir()) == []
    assert 60e6 <= result.source_bytes < 75e6
    assert result.largest_bytes == 8192 * 512 * 2
    plain, verified = result.rows
    # The embedding and the output projection are held in 8 bits, the layers in 4; and scales.
    assert 0.28 < plain.artifact_bytes / result.source_bytes < 0.5
    assert 0.5 < verified.artifact_bytes / result.source_bytes < 0.65
    assert min(plain.seconds, verified.seconds) > 0.1
    assert min(plain.processor_seconds, verified.processor_seconds) > 0.1
    assert result.rate(plain) == result.source_bytes / 1e6 / plain.seconds
    # Nobody's Python with NumPy in it is smaller.
    assert ballast.nbytes > 500e6
    assert 50e6 < plain.anonymous_bytes < plain.peak_bytes < 400e6
    assert plain.peak_bytes < result.bound_bytes
    assert seen[-3:] == [
        ("checkpoint", result.source_bytes, result.source_bytes),
        ("int4", 0, 2),
        ("int8, verified", 1, 2),
    ]


def test_the_checkpoint_is_like_one_that_people_use(tmp_path: Path) -> None:
    shape = ModelShape.of(4.0)
    assert (shape.vocab, shape.hidden) == (128_256, 4096)
    assert 4e9 <= shape.nbytes < 4.5e9
    assert shape.largest_nbytes == 128_256 * 4096 * 2
    write_checkpoint(ModelShape.of(0.03), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    weights = checkpoint.tensor("layers.0.up").dense()
    assert 2**-9 <= np.abs(weights).min() < 2**-8 < 2**-5.1 < np.abs(weights).max() < 2**-5
    assert abs(weights.mean()) < 1e-4
    np.testing.assert_array_equal(checkpoint.tensor("final_norm").dense(), 1)


def test_the_report_says_what_is_within_the_bounds() -> None:
    def row(precision: str, seconds: float, peak: int, *, verify: bool = False) -> LargeRow:
        memory = {"peak_bytes": peak, "anonymous_bytes": peak - 10**8}
        times = {"seconds": seconds, "processor_seconds": seconds + 1}
        return LargeRow(
            precision, verify, artifact_bytes=2 * 10**9, bystanders=0.0, **memory, **times
        )

    rows = (row("int8", 20.0, 2 * 10**9), row("int4", 80.0, 3 * 10**9, verify=True))
    text = _text(Large(4_000_000_000, 1_000_000_000, rows))
    assert "4.0 GB" in text
    assert "int8  " in text
    assert "200 MB/s" in text
    assert "int4 + report" in text
    assert "50 MB/s" in text
    assert "81 s" in text
    assert "2500 MB" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["large", "--gigabytes", "0.03", "--directory", str(tmp_path)]
    assert main([*arguments, "--precision", "int8", "--json", str(tmp_path / "x.json")]) == 0
    assert "int8" in capsys.readouterr().out
    assert '"artifact_bytes"' in (tmp_path / "x.json").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_no_room(tmp_path: Path) -> None:
    with pytest.raises(LargeFault, match=r"has room for .* GB, 31000000.0 are needed"):
        measure_large(tmp_path, 1e7)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails(tmp_path: Path) -> None:
    with pytest.raises(LargeFault, match=r"code 3: rbee-export: .*no quantised blocks"):
        measure_large(tmp_path, 0.03, [Case("gguf")])
    assert list(tmp_path.iterdir()) == []


def _text(result: Large) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(large_report(result))
    return captured.get()
