"""The engines that are measured, each in a process of its own."""

from rbee_bench.peers.peer import Kind, Reads, Spec, Timing
from rbee_bench.peers.process import PeerFault, PeerProcess

__all__ = ["Kind", "PeerFault", "PeerProcess", "Reads", "Spec", "Timing"]
