"""The engines that are measured, each in a process of its own."""

from rbee_bench.engine_process import PeerFault, alone
from rbee_bench.peers.eager import require_eager
from rbee_bench.peers.peer import OTHERS, Arithmetic, Kind, Reads, Spec, Timing
from rbee_bench.peers.process import PeerProcess

__all__ = [
    "OTHERS",
    "Arithmetic",
    "Kind",
    "PeerFault",
    "PeerProcess",
    "Reads",
    "Spec",
    "Timing",
    "alone",
    "require_eager",
]
