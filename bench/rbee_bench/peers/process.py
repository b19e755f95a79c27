"""The near end of a peer's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rbee_bench.engine_process import EngineProcess, PeerFault, beside_vllm, here
from rbee_bench.peers.dense import made_dense_directory
from rbee_bench.peers.peer import Logits, Reads, Spec, Timing

_PROGRAM = "rbee_bench.peers.worker"


class PeerProcess(EngineProcess):
    """A peer, opened in a process of its own, which ends with the ``with`` block.

    Attributes:
        spec: What was opened.
        version: Name and version of what computes.

    Args:
        spec: What to open.
        search_path: Directories to import from before any other, as for ``PYTHONPATH``.

    Raises:
        PeerFault: From every method: the peer cannot be opened, raised an error, or died.
    """

    def __init__(self, spec: Spec, search_path: str = "") -> None:
        self.spec = spec
        command, variables = _command(spec)
        if search_path:
            variables["PYTHONPATH"] = search_path
        super().__init__([*command, spec.to_json()], variables)

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="decode", prompt=list(prompt), tokens=tokens)
        return Timing(answer["tokens"], answer["seconds"])

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="prefill", prompt=list(prompt))
        return Timing(answer["tokens"], answer["seconds"])

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        answer = self._ask(call="batch", prompts=list(map(list, prompts)), tokens=tokens)
        return Timing(answer["tokens"], answer["seconds"])

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        completion: list[int] = self._ask(call="complete", prompt=list(prompt), tokens=tokens)[
            "completion"
        ]
        return completion

    def score(self, ids: Sequence[int], file: Path) -> Logits:
        """Write the logits after each of ``ids`` to ``file`` and map it: ``float32[ids, vocab]``.

        They go by way of a file because they are hundreds of megabytes.
        """
        self._ask(call="score", ids=list(ids), file=str(file))
        return np.memmap(file, np.float32, mode="r").reshape(len(ids), -1)

    def reads(self) -> Reads | None:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        known = self._ask(call="reads")["reads"]
        return None if known is None else Reads(**known)


def _command(spec: Spec) -> tuple[list[str], dict[str, str]]:
    """Return what opens a peer, less its spec, and the variables it is to find."""
    if spec.kind != "vllm":
        return here(_PROGRAM, spec.threads)
    started = beside_vllm(_PROGRAM, spec.threads)
    try:
        made_dense_directory(spec.model, spec.workspace)
    except RuntimeError as error:
        raise PeerFault(str(error)) from None
    return started
