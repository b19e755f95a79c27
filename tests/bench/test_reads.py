"""What is counted as read and computed for one token."""

from __future__ import annotations

from support.makers import MakeArtifact, MakeFamily

from rbee_bench.peers.dense import dense_reads
from rbee_bench.peers.onnx_reads import matrix_operations, weight_bytes
from rbee_runtime import Artifact


def test_a_mixture_reads_the_experts_that_a_token_is_given(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_family("olmoe")
    artifact = Artifact.open(make_artifact(checkpoint, "fp32"))
    shapes, graph = artifact.manifest.shapes, artifact.file("graph")
    experts = shapes.experts
    assert experts is not None
    hidden, head_width = shapes.hidden, shapes.heads * shapes.head_dim
    projections = 2 * head_width * hidden + 2 * shapes.kv_heads * shapes.head_dim * hidden
    router = experts.count * hidden
    given = experts.active * 3 * experts.intermediate * hidden
    weights = shapes.layers * (projections + router + given) + shapes.vocab * hidden
    assert matrix_operations(graph) == 2 * weights
    # Besides, there are norms and whatever small constants a graph has.
    assert 0 <= weight_bytes(graph) - 4 * weights < 4 * 16 * (shapes.layers + 1) * hidden
    # Of the checkpoint, a peer reads as much.
    reads = dense_reads(checkpoint, 4, None)
    assert reads.operations == 2 * weights
    assert 0 <= reads.weights - 4 * weights < 4 * 16 * (shapes.layers + 1) * hidden
