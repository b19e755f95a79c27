"""The experts of a layer in one operator, beside its definition and beside products one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.factored import TABLES, of_a_table
from support.native import VARIANTS, model, needs_kernels, needs_matrix_unit, session

from rbee_export.dialect.experts import block_experts
from rbee_export.dialect.functions import block_product, gated_product
from rbee_export.dialect.ort import OPSET

Array = NDArray[Any]

ACCURACY = {"accuracy_level": 4}


class Blocks:
    """A random matrix in blocks for each expert, one below the other.

    Attributes:
        parts: Integers, scales, and offsets or ``None``.
        attributes: What a product with one expert's is told.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        experts: int,
        n: int,
        k: int,
        *,
        bits: int,
        block: int,
        offsets: bool,
        short_scales: bool,
        table: str,
    ) -> None:
        rows, blocks = experts * n, k // block
        scales = rng.uniform(-0.05, 0.05, (rows, blocks)).astype(np.float32)
        if short_scales:
            scales = scales.astype(np.float16).astype(np.float32)
        integers = rng.integers(0, 256, (rows, blocks, block * bits // 8), np.uint8)
        if bits == 8 and table:
            integers = of_a_table(rng, table, rows, blocks, block)
        self.parts: list[Array | None] = [
            integers,
            scales,
            rng.uniform(-0.05, 0.05, scales.shape).astype(np.float32) if offsets else None,
        ]
        self.attributes = {"N": n, "K": k, "bits": bits, "block_size": block}

    def of(self, expert: int) -> dict[str, Array]:
        n = self.attributes["N"]
        own = slice(expert * n, (expert + 1) * n)
        names = ("integers", "scales", "offsets")
        return {
            name: part[own]
            for name, part in zip(names, self.parts, strict=True)
            if part is not None
        }


class Experts:
    """A layer of experts with random weights, and what its parts compute one by one."""

    def __init__(
        self,
        rng: np.random.Generator,
        experts: int = 8,
        active: int = 2,
        *,
        width: int = 32,
        k: int = 64,
        bits: int = 4,
        block: int = 32,
        offsets: bool = False,
        down_bits: int = 4,
        down_block: int = 32,
        down_offsets: bool = False,
        normalized: bool = True,
        short_scales: bool = True,
        clamped: bool = False,
        sigmoid: bool = False,
        table: str = "",
    ) -> None:
        self.experts, self.active, self.normalized, self.k = experts, active, normalized, k
        held: dict[str, Any] = {"short_scales": short_scales, "table": table}
        how: dict[str, Any] = {"bits": bits, "block": block, "offsets": offsets}
        self._gate, self._up = (Blocks(rng, experts, width, k, **how, **held) for _ in range(2))
        how = {"bits": down_bits, "block": down_block, "offsets": down_offsets}
        self._down = Blocks(rng, experts, k, width, **how, **held)
        kind: dict[str, Any] = {"clamped": clamped, "sigmoid": sigmoid}
        function = block_experts(OPSET, offsets=offsets, down_offsets=down_offsets, **kind)
        matrices = {"gate": self._gate, "up": self._up, "down": self._down}
        weights = {f"{name}{i}": p for name, of in matrices.items() for i, p in enumerate(of.parts)}
        if clamped:
            for name, n in (("gate", width), ("up", width), ("down", k)):
                weights[f"{name}_bias"] = rng.uniform(-4, 4, experts * n).astype(np.float32)
        self._choice: Array | None = None
        if sigmoid:
            # So far apart that no two are nearly the same.
            self._choice = rng.choice(np.float32([0, 1.5]), experts)
            weights |= {} if clamped else dict.fromkeys(("gate_bias", "up_bias", "down_bias"))
            weights["choice_bias"] = self._choice
        attributes = {
            **{"experts": experts, "active": active, "normalized": int(normalized)},
            **{"N": width, "K": k, "bits": bits, "block_size": block},
            **{"down_bits": down_bits, "down_block_size": down_block},
        }
        inputs = {"x": np.zeros((1, 1, k)), "router": np.zeros((1, 1, experts))}
        inputs = {name: one.astype(np.float32) for name, one in inputs.items()}
        self.model = model(function.name, inputs, weights, attributes, function=function)

    def chosen(self, router: Array) -> tuple[Array, Array]:
        """Return which experts each token goes to, and what they count for."""
        wide = router.astype(np.float64)
        if self._choice is None:
            p, scores = np.exp(wide - wide.max(axis=-1, keepdims=True)), router
            p /= p.sum(axis=-1, keepdims=True)
        else:
            p = 1 / (1 + np.exp(-wide))
            scores = p + self._choice
        order = np.argsort(-scores, axis=-1, kind="stable")[..., : self.active]
        own = np.take_along_axis(p, order, axis=-1)
        return order, own / own.sum(axis=-1, keepdims=True) if self.normalized else own

    def one_by_one(self, x: Array, router: Array, variant: str) -> Array:
        """Compute each expert by the operators of dense layers, on the same kernels."""
        flat, logits = x.reshape(-1, self.k), router.reshape(-1, self.experts)
        chosen, shares = self.chosen(logits)
        y = np.zeros(flat.shape)
        for expert in np.unique(chosen):
            tokens, places = np.nonzero(chosen == expert)
            # One more, so that there are several: single tokens keep off the matrix unit.
            own = flat[np.append(tokens, tokens[0])][None]
            inner = self._first(expert, variant).run(None, {"x": own})[0]
            outer = self._second(expert, variant).run(None, {"x": inner})[0]
            y[tokens] += shares[tokens, places, None] * outer[0, :-1]
        return y.reshape(x.shape)

    def _first(self, expert: int, variant: str) -> ort.InferenceSession:
        gate, up = self._gate.of(expert), self._up.of(expert)
        weights = {name: np.concatenate([gate[name], up[name]]) for name in gate}
        offsets = "offsets" in gate
        function = gated_product(OPSET, "GatedSilu", ACCURACY, offsets=offsets)
        attributes = self._gate.attributes | {"N": 2 * self._gate.attributes["N"]}
        x = {"x": np.zeros((1, 1, self.k), np.float32)}
        of = model(function.name, x, weights, attributes, function=function)
        return session(of, native=True, variant=variant)

    def _second(self, expert: int, variant: str) -> ort.InferenceSession:
        weights, attributes = self._down.of(expert), self._down.attributes
        x = {"x": np.zeros((1, 1, attributes["K"]), np.float32)}
        if "offsets" in weights:
            function = block_product(OPSET, ACCURACY)
            of = model(function.name, x, weights, attributes, function=function)
        else:
            of = model("MatMulNBits", x, weights, attributes | ACCURACY)
        return session(of, native=True, variant=variant)

    def draw(self, rng: np.random.Generator, *leading: int) -> dict[str, Array]:
        """Draw hidden states, and logits of which no two are nearly the same."""
        order = rng.permuted(np.tile(np.arange(self.experts), (*leading, 1)), axis=-1)
        router = (order * 0.3 + rng.uniform(0, 0.1, order.shape)).astype(np.float32)
        return {"x": rng.standard_normal((*leading, self.k), np.float32), "router": router}

    def run(self, inputs: dict[str, Array], variant: str) -> Array:
        found: Array = session(self.model, native=True, variant=variant).run(None, inputs)[0]
        return found

    def defined(self, inputs: dict[str, Array]) -> Array:
        found: Array = session(self.model, native=False).run(None, inputs)[0]
        return found


def assert_near(found: Array, wanted: Array, tolerance: float) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def assert_typical(found: Array, wanted: Array, tolerance: float) -> None:
    """Compare root mean squares: over many sums, errors of rounding go both ways."""
    assert np.square(found - wanted).mean() <= tolerance**2 * np.square(wanted).mean()


shapes = {
    "experts": st.integers(1, 12),
    "active": st.integers(1, 8),
    "panels": st.integers(1, 4),
    "blocks": st.integers(1, 3),
    "leading": st.one_of(
        st.tuples(st.integers(1, 64), st.just(1)), st.tuples(st.integers(1, 2), st.integers(2, 64))
    ),
    "bits": st.sampled_from([4, 8]),
    "block": st.sampled_from([16, 32, 64]),
    "offsets": st.booleans(),
    "down_bits": st.sampled_from([4, 8]),
    "down_block": st.sampled_from([16, 32, 64]),
    "down_offsets": st.booleans(),
    "normalized": st.booleans(),
    "short_scales": st.booleans(),
    "sigmoid": st.booleans(),
    "table": st.sampled_from(["", *TABLES]),
    "seed": st.integers(0, 2**32 - 1),
}


def draw_experts(
    *, experts: int, active: int, panels: int, blocks: int, block: int, seed: int, **how: Any
) -> tuple[Experts, np.random.Generator]:
    rng = np.random.default_rng(seed)
    width = panels * max(16, how["down_block"])
    active = min(active, experts)
    of = Experts(rng, experts, active, width=width, k=blocks * block, block=block, **how)
    return of, rng


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_every_variant_computes_what_products_one_by_one_do(
    *, leading: tuple[int, int], **how: Any
) -> None:
    of, rng = draw_experts(**how)
    inputs = of.draw(rng, *leading)
    found = of.run(inputs, VARIANTS[0])
    assert_near(found, of.one_by_one(**inputs, variant=VARIANTS[0]), 2e-6)
    for variant in VARIANTS[1:]:
        np.testing.assert_array_equal(of.run(inputs, variant), found, err_msg=variant)


@needs_matrix_unit
@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_prompts_on_the_matrix_unit_do_too(*, leading: tuple[int, int], **how: Any) -> None:
    of, rng = draw_experts(**how)
    # Enough for any number of experts.
    inputs = of.draw(rng, leading[0] % 2 + 1, 192 + leading[1])
    assert_near(of.run(inputs, "amx"), of.one_by_one(**inputs, variant="amx"), 2e-6)


@needs_kernels
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("down_offsets", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        {"normalized": False},
        {"normalized": True},
        {"normalized": True, "clamped": True},
        {"normalized": False, "sigmoid": True},
        {"normalized": True, "sigmoid": True},
    ],
)
def test_it_is_what_its_definition_computes(
    offsets: bool, down_offsets: bool, kind: dict[str, bool]
) -> None:
    rng = np.random.default_rng(11)
    of = Experts(rng, offsets=offsets, down_offsets=down_offsets, **kind)
    inputs = of.draw(rng, 3, 11)
    found = of.run(inputs, VARIANTS[0])
    # The definition rounds no activations: its weights are not known beforehand.
    assert_typical(found, of.defined(inputs), 2e-2)
    for variant in VARIANTS[1:]:
        np.testing.assert_array_equal(of.run(inputs, variant), found, err_msg=variant)


@needs_matrix_unit
def test_clamped_experts_on_the_matrix_unit() -> None:
    rng = np.random.default_rng(12)
    of = Experts(rng, 4, 2, width=96, k=128, clamped=True)
    inputs = of.draw(rng, 1, 200)
    assert_typical(of.run(inputs, "amx"), of.defined(inputs), 2e-2)


@needs_kernels
@pytest.mark.parametrize("normalized", [False, True])
def test_of_equal_logits_the_lower_index_is_taken(normalized: bool) -> None:
    rng = np.random.default_rng(13)
    of = Experts(rng, 12, 4, normalized=normalized)
    inputs = of.draw(rng, 40, 1)
    inputs["router"] = rng.integers(-1, 2, inputs["router"].shape).astype(np.float32)
    assert_near(of.run(inputs, VARIANTS[0]), of.one_by_one(**inputs, variant=VARIANTS[0]), 2e-6)


@needs_kernels
def test_logits_far_apart() -> None:
    rng = np.random.default_rng(17)
    of = Experts(rng, 4, 3)
    inputs = of.draw(rng, 4, 1)
    inputs["router"] = np.eye(4, dtype=np.float32)[:, None] * 1e30
    found = of.run(inputs, VARIANTS[0])
    assert_near(found, of.one_by_one(**inputs, variant=VARIANTS[0]), 2e-6)


@needs_kernels
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_is_the_same_in_any_company(variant: str) -> None:
    rng = np.random.default_rng(19)
    of = Experts(rng, width=96, k=128)
    native = session(of.model, native=True, variant=variant)
    inputs = of.draw(rng, 33, 1)
    alone = [native.run(None, {n: a[i : i + 1] for n, a in inputs.items()})[0] for i in range(33)]
    for rows in (2, 8, 9, 33):
        found = native.run(None, {name: array[:rows] for name, array in inputs.items()})[0]
        np.testing.assert_array_equal(found, np.concatenate(alone[:rows]))


@needs_matrix_unit
def test_a_token_is_the_same_in_any_long_chunk() -> None:
    rng = np.random.default_rng(23)
    of = Experts(rng, 4, 2, width=96, k=128)
    native = session(of.model, native=True, variant="amx")
    inputs = of.draw(rng, 1, 700)
    together = native.run(None, inputs)[0]
    for first, last in ((0, 32), (5, 138), (300, 700)):
        found = native.run(None, {name: array[:, first:last] for name, array in inputs.items()})[0]
        np.testing.assert_array_equal(found, together[:, first:last])


@needs_matrix_unit
@pytest.mark.parametrize(("width", "k"), [(64, 4160), (4160, 64)])
def test_matrices_with_more_inputs_than_a_core_s_cache_holds(width: int, k: int) -> None:
    rng = np.random.default_rng(29)
    of = Experts(rng, 3, 2, width=width, k=k)
    inputs = of.draw(rng, 1, 300)
    assert_typical(of.run(inputs, "amx"), of.defined(inputs), 6e-3)


@needs_kernels
def test_one_expert_takes_all_tokens() -> None:
    rng = np.random.default_rng(31)
    of = Experts(rng, 5, 1)
    inputs = of.draw(rng, 300, 1)
    inputs["router"][..., 3] = 100
    assert_near(of.run(inputs, VARIANTS[0]), of.one_by_one(**inputs, variant=VARIANTS[0]), 2e-6)


@needs_kernels
def test_no_tokens() -> None:
    of = Experts(np.random.default_rng(37))
    inputs = {"x": np.zeros((0, 1, 64), np.float32), "router": np.zeros((0, 1, 8), np.float32)}
    assert of.run(inputs, VARIANTS[0]).shape == (0, 1, 64)


@needs_kernels
def test_widths_that_are_no_whole_panels() -> None:
    of = Experts(np.random.default_rng(41), width=24, down_block=8)
    with pytest.raises(Exception, match="N is no multiple of 16"):
        session(of.model, native=True)
