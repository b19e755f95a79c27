from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from rbee_bench.agreement import measure_agreement
from rbee_bench.peers import Kind, PeerProcess, Spec

_IDS = list(range(5, 120))


class _Engine:
    """Goes on from a prompt as it is told to."""

    def __init__(self, kind: Kind, offset: int, wrong_from: int = 10**6) -> None:
        self.spec = Spec(kind, "", Path(), 0, 1, Path())
        self._offset, self._left = offset, wrong_from

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        self._left -= 1
        return [prompt[-1] + self._offset + (self._left < 0)] * tokens


def _peers(**engines: _Engine) -> dict[str, PeerProcess]:
    return {label: cast(PeerProcess, engine) for label, engine in engines.items()}


def test_engines_are_held_to_eager_torch_and_garbage_is_called_wrong() -> None:
    peers = _peers(
        gguf=_Engine("compiled", 1),
        int4=_Engine("compiled", 1, wrong_from=9),
        babbling=_Engine("genai", 2),
        torch=_Engine("eager", 1),
    )
    agreement = measure_agreement(peers, _IDS)
    assert agreement.reference == "torch"
    assert agreement.shares == {"gguf": 1.0, "int4": 9 / 24, "babbling": 0.0, "torch": 1.0}
    assert agreement.wrong == ["babbling"]


@pytest.mark.parametrize("labels", [("gguf", "int4"), ("int4", "gguf"), ("int4", "other")])
def test_without_torch_the_most_exact_is_the_reference(labels: tuple[str, str]) -> None:
    peers = _peers(**{label: _Engine("compiled", 1) for label in labels})
    expected = "gguf" if "gguf" in labels else labels[0]
    assert measure_agreement(peers, _IDS).reference == expected


def test_an_engine_agrees_with_itself_in_another_process(tiny_artifact: Path) -> None:
    spec = Spec("compiled", "gguf", tiny_artifact, 0, 1, tiny_artifact)
    with PeerProcess(spec) as one, PeerProcess(spec) as other:
        agreement = measure_agreement({"gguf": one, "again": other}, _IDS)
    assert agreement.shares == {"gguf": 1.0, "again": 1.0}
