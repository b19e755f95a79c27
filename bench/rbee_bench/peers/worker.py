"""A peer in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rbee_bench.answering import serve
from rbee_bench.peers.peer import Peer, Spec


def main() -> None:
    """Open the peer of the first argument's :class:`Spec` and serve it until stdin ends."""
    serve(lambda: _open(Spec.from_json(sys.argv[1])), _answer)


def _open(spec: Spec) -> Peer:
    match spec.kind:
        case "compiled":
            from rbee_bench.peers.compiled import CompiledPeer

            return CompiledPeer(spec)
        case "llama.cpp":
            from rbee_bench.peers.llamacpp import LlamaCppPeer

            return LlamaCppPeer(spec)
        case "genai":
            from rbee_bench.peers.genai import GenaiPeer

            return GenaiPeer(spec)
        case "openvino":
            from rbee_bench.peers.openvino import OpenvinoPeer

            return OpenvinoPeer(spec)
        case "vllm":
            from rbee_bench.peers.vllm import VllmPeer

            return VllmPeer(spec)
        case "eager":
            from rbee_bench.peers.eager import EagerPeer

            return EagerPeer(spec)


def _answer(peer: Peer, call: dict[str, Any]) -> dict[str, Any]:
    match call["call"]:
        case "decode":
            timing = peer.decode(call["prompt"], call["tokens"])
            if timing.tokens < 1:
                raise ValueError("its text ended at the first token, which leaves nothing to time")
            return {"tokens": timing.tokens, "seconds": timing.seconds}
        case "batch":
            timing = peer.batch(call["prompts"], call["tokens"])
            return {"tokens": timing.tokens, "seconds": timing.seconds}
        case "prefill":
            timing = peer.prefill(call["prompt"])
            return {"tokens": timing.tokens, "seconds": timing.seconds}
        case "reads":
            known = peer.reads()
            return {"reads": None if known is None else asdict(known)}
        case "complete":
            return {"completion": peer.complete(call["prompt"], call["tokens"])}
        case "score":
            _score(peer, call["ids"], Path(call["file"]))
            return {}
    raise ValueError(f"no such call: {call['call']}")


def _score(peer: Peer, ids: list[int], file: Path) -> None:
    with file.open("wb") as stream:
        for logits in peer.score(ids):
            stream.write(np.ascontiguousarray(logits, np.float32).tobytes())


if __name__ == "__main__":
    main()
