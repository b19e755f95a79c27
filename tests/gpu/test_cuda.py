"""What only a GPU can show: its kernels compute what the CPU does, and its memory is counted.

The checks are those of ``make gpu-check``, one at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_check import captured, memory, parity, provider, tensorrt
from gpu_check.child import Skipped
from gpu_check.families import MODELS

pytestmark = pytest.mark.gpu


class Findings:
    """What a check finds, all of which must hold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[dict[str, Any]] = []

    def row(self, *, holds: bool = True, **fields: Any) -> None:
        self.rows.append(fields)
        assert holds, self.rows


@pytest.fixture
def findings(tmp_path: Path) -> Any:
    return Findings(tmp_path)


def test_the_provider_works(findings: Any) -> None:
    provider.describe(findings)


@pytest.mark.parametrize("precision", parity.CLOSE)
@pytest.mark.parametrize("family", MODELS)
def test_parity_with_the_cpu(family: str, precision: str, tmp_path: Path) -> None:
    found = parity.of_family(family, precision, tmp_path)
    assert found["holds"], found


@pytest.mark.parametrize("how", captured.SAMPLING)
@pytest.mark.parametrize("family", captured.COMPARED)
def test_captured_graphs_change_nothing(family: str, how: str, tmp_path: Path) -> None:
    found = captured.of_family(family, how, tmp_path)
    assert found["holds"], found


def test_what_it_holds_is_what_nvml_sees(findings: Any) -> None:
    memory.account(findings)


def test_memory_that_runs_out(findings: Any) -> None:
    memory.exhaust(findings)


def test_tensorrt(findings: Any) -> None:
    try:
        tensorrt.compare(findings)
    except Skipped as reason:
        pytest.skip(str(reason))
