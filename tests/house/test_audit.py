"""The audit fails for a known vulnerability, and for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"

SOUND: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
FAULTY = SOUND | {
    "name": "b",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": [], "description": ""}],
}
SKIPPED = {"name": "c", "skip_reason": "not found"}


def program(directory: Path, reports: dict[str, Any]) -> Path:
    """Write a stand-in for pip-audit; a service without a report fails as one that is away."""
    path = directory / "pip-audit"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"reports = {reports!r}\n"
        "value = lambda flag: sys.argv[sys.argv.index(flag) + 1]\n"
        "report = reports.get(value('--vulnerability-service'))\n"
        "if report is None:\n"
        "    sys.exit('Traceback...\\nConnectionError: name or service not known')\n"
        "json.dump({'dependencies': report}, open(value('--output'), 'w'))\n"
        "sys.exit(any(entry.get('vulns') for entry in report))\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("reports", "status", "said"),
    [
        ({"pypi": [SOUND]}, 0, "0 known vulnerabilities in 1 packages, by pypi"),
        ({"pypi": [SOUND, FAULTY]}, 1, "b 1: PYSEC-1, fixed in 2"),
        ({"pypi": [SOUND, SKIPPED]}, 0, "1 packages it does not know"),
        ({"osv": [FAULTY]}, 1, "by osv"),
        ({"pypi": [SKIPPED], "osv": [SOUND]}, 0, "by osv"),
        ({"pypi": [SKIPPED]}, 0, "SKIPPED"),
        ({}, 0, "ConnectionError: name or service not known"),
    ],
)
def test_verdict(tmp_path: Path, reports: dict[str, Any], status: int, said: str) -> None:
    asked = subprocess.run(
        [sys.executable, str(AUDIT), str(program(tmp_path, reports)), "packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == status
    assert said in asked.stdout
    assert not asked.stderr


def test_no_program(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, str(AUDIT), str(tmp_path / "none"), "packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0
    assert "SKIPPED" in asked.stdout
