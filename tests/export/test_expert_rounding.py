"""How experts are rounded to 4 bits: each to the tokens that it is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from support.makers import MakeFamily

from rbee_export import Checkpoint, open_checkpoint
from rbee_export.blocks import BlockMatrix, quantize
from rbee_export.checkpoint.config import Experts
from rbee_export.dialect import ReferenceDialect
from rbee_export.dialect.activations import silu
from rbee_export.dialect.calibrated_experts import round_experts
from rbee_export.dialect.routing import Routing
from rbee_export.rounding import InputMoments
from rbee_export.weights import Weights

Floats = NDArray[np.float32]
AT, WIDTH = "layers.0.", 64
EXPERTS = Experts(8, 2, 32, normalized=True, layers=frozenset({0, 1}))


@pytest.fixture(scope="module")
def checkpoint(make_family: MakeFamily) -> Checkpoint:
    return open_checkpoint(make_family("qwen3-moe"))


@pytest.fixture
def weights(checkpoint: Checkpoint) -> Weights:
    return Weights(checkpoint, "int4")


def rounded(checkpoint: Checkpoint, weights: Weights, x: Floats) -> tuple[Floats, Routing]:
    """Round a layer's experts to activations; return what they make of them, and who got what."""
    text = ReferenceDialect(checkpoint.config, Weights(checkpoint, "fp32"), range(len(x)))
    experts = checkpoint.config.experts
    assert experts == EXPERTS
    outcome = round_experts(text, weights, x, at=AT, columns=WIDTH, experts=experts)
    return outcome, text.routing(x, AT, WIDTH, experts)


def matrices(weights: Weights) -> Sequence[BlockMatrix]:
    count, narrow = EXPERTS.count, EXPERTS.intermediate
    found = [weights.matrix(AT + "expert_gate", count * narrow, WIDTH)]
    found += [weights.matrix(AT + "expert_up", count * narrow, WIDTH)]
    found += [weights.matrix(AT + "expert_down", count * WIDTH, narrow)]
    blocks = [matrix for matrix in found if isinstance(matrix, BlockMatrix)]
    assert len(blocks) == 3
    return blocks


def stored(weights: Weights, name: str) -> list[Floats]:
    whole = weights.checkpoint.tensor(AT + name).dense()
    return np.split(whole, EXPERTS.count)


def test_the_text_goes_on_with_what_the_graph_gets(
    checkpoint: Checkpoint, weights: Weights
) -> None:
    x = np.random.default_rng(1).standard_normal((60, WIDTH), np.float32)
    outcome, routing = rounded(checkpoint, weights, x)
    parts = [np.split(m.dequantize(), EXPERTS.count) for m in matrices(weights)]
    wanted = np.zeros_like(x)
    for expert, (gate, up, down) in enumerate(zip(*parts, strict=True)):
        tokens, shares = routing.of_expert(expert)
        inner = silu(x[tokens] @ gate.T) * (x[tokens] @ up.T)
        wanted[tokens] += shares * (inner @ down.T)
    np.testing.assert_allclose(outcome, wanted, rtol=0, atol=1e-4)
    assert np.abs(outcome).max() > 1


def test_no_expert_is_farther_off_for_its_tokens_than_after_plain_rounding(
    checkpoint: Checkpoint, weights: Weights
) -> None:
    x = np.random.default_rng(2).standard_normal((60, WIDTH), np.float32)
    _, routing = rounded(checkpoint, weights, x)
    gates = np.split(matrices(weights)[0].dequantize(), EXPERTS.count)
    better = []
    for expert, (exact, gate) in enumerate(zip(stored(weights, "expert_gate"), gates, strict=True)):
        tokens, _ = routing.of_expert(expert)
        assert len(tokens)
        inputs = InputMoments.of(x[tokens])
        assert inputs is not None
        ours = inputs.error(gate - exact)
        plain = inputs.error(quantize(exact, 4).dequantize() - exact)
        assert (ours <= plain * (1 + 1e-4)).all()
        better.append(ours.sum() < 0.9 * plain.sum())
    assert all(better)


def test_an_expert_without_tokens_is_rounded_by_itself(
    checkpoint: Checkpoint, weights: Weights
) -> None:
    x = np.repeat(np.random.default_rng(3).standard_normal((1, WIDTH), np.float32), 9, axis=0)
    outcome, routing = rounded(checkpoint, weights, x)
    given = set(routing.chosen.reshape(-1).tolist())
    assert len(given) == EXPERTS.active
    for matrix, name in zip(
        matrices(weights), ("expert_gate", "expert_up", "expert_down"), strict=True
    ):
        parts = np.split(matrix.dequantize(), EXPERTS.count)
        for expert, (exact, part) in enumerate(zip(stored(weights, name), parts, strict=True)):
            plain = quantize(exact, 4).dequantize()
            assert np.array_equal(part, plain) == (expert not in given)
    assert np.isfinite(outcome).all()


def test_activations_that_are_not_finite_leave_the_weights_to_decide(
    checkpoint: Checkpoint, weights: Weights
) -> None:
    x = np.full((9, WIDTH), 1e30, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded(checkpoint, weights, x)
    whole = matrices(weights)[0]
    assert whole.how == "rounded"
    plain = np.concatenate([quantize(m, 4).dequantize() for m in stored(weights, "expert_gate")])
    np.testing.assert_array_equal(whole.dequantize(), plain)
