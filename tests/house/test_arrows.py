"""What may import what: the arrows of the house, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PACKAGES = {
    "export/rbee_export": {"rbee_export"},
    "runtime/rbee_runtime": {"rbee_runtime"},
    "service/rbee_service": {"rbee_service", "rbee_runtime", "rbee_programs"},
}
"""Which of our packages each may import; of the runtime, the exporter may a part."""

EXPORT_MAY = {
    "rbee_runtime.artifact",
    "rbee_runtime.tokenizer",
    "rbee_runtime.chat_template",
    "rbee_runtime.errors",
    "rbee_runtime.units",
}
FORBIDDEN = {
    "export/rbee_export": {"sanic"},
    "runtime/rbee_runtime": {"sanic", "httpx", "torch", "transformers", "structlog"},
    "service/rbee_service": {"numpy", "onnxruntime", "torch", "transformers", "tensorrt"},
}


def imports(package: str) -> Iterator[tuple[Path, str]]:
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Import():
                    yield from ((file, alias.name) for alias in node.names)
                case ast.ImportFrom(level=0):
                    yield from ((file, f"{node.module}.{alias.name}") for alias in node.names)
                case ast.ImportFrom():
                    raise AssertionError(f"{file}: imports are absolute")


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    found = list(imports(package))
    assert found
    for file, name in found:
        top = name.split(".")[0]
        assert top not in FORBIDDEN[package], f"{file} imports {name}"
        if not top.startswith("rbee_") or top in PACKAGES[package]:
            continue
        allowed = package == "export/rbee_export" and any(
            f"{name}.".startswith(f"{part}.") for part in EXPORT_MAY
        )
        assert allowed, f"{file} imports {name}"
