"""Models of one operator, run by the native kernels and by ONNX Runtime's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from rbee_export.dialect.ort import OPSET
from rbee_runtime import kernels
from rbee_runtime.artifact import Artifact

MS = "com.microsoft"
Arrays = Mapping[str, NDArray[Any]]


def usable() -> str:
    """Return why the kernels cannot be used here, or nothing."""
    try:
        kernels.library()
    except kernels.NoKernels as error:
        return str(error)
    return ""


VARIANTS = tuple(variant for variant in kernels.variants() if variant != "amx")
"""Those that this processor runs and whose results are the same bits."""

needs_kernels = pytest.mark.skipif(bool(usable()), reason=f"no native kernels: {usable()}")
needs_matrix_unit = pytest.mark.skipif(
    bool(usable()) or "amx" not in kernels.variants(),
    reason="the processor has no matrix unit (amx_tile, amx_bf16), or there are no native kernels",
)


def round_as_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernels round what ONNX Runtime's do, and nothing else.

    That is activations, to 8 bits: those of prompts, too, and nothing that goes into the cache.
    """
    monkeypatch.setattr(Artifact, "half_cache_graph", None)
    if not needs_matrix_unit.args[0] and "RBEE_KERNELS" not in os.environ:
        monkeypatch.setenv("RBEE_KERNELS", "avx512")


def model(
    kind: str,
    inputs: Mapping[str, NDArray[Any] | None],
    constants: Mapping[str, NDArray[Any] | None],
    attributes: Mapping[str, Any],
    *,
    outputs: int = 1,
    keep_all: bool = False,
    function: ir.Function | None = None,
    domain: str | None = None,
) -> ir.Model:
    """Return a model of one operator, with its first and its last output, or with all."""
    tape = Tape()

    def value(name: str, array: NDArray[Any]) -> ir.Value:
        dtype = ir.DataType.from_numpy(array.dtype)
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape))

    given_inputs: list[ir.Value | None] = []
    for name, array in inputs.items():
        given_inputs.append(None if array is None else value(name, array))
        if array is not None:
            given_inputs[-1].shape = ir.Shape([f"{name}.{i}" for i in range(array.ndim)])
    stored: list[ir.Value | None] = []
    for name, array in constants.items():
        stored.append(None if array is None else value(name, array))
        if array is not None:
            stored[-1].const_value = ir.tensor(array, name=name)  # type: ignore[union-attr]
    if domain is None:
        domain = MS if function is None else function.domain
    made = tape.op_multi_out(
        kind, [*given_inputs, *stored], attributes, num_outputs=outputs, domain=domain
    )
    results = list(made) if keep_all else [made[0]] if outputs == 1 else [made[0], made[-1]]
    for i, result in enumerate(results):
        result.name = f"y{i}"
        # Attention alone has others: its cache's.
        cached = 0 < i < 3 and "past_key" in inputs
        array = inputs["past_key"] if cached else None
        result.dtype = ir.DataType.FLOAT if array is None else ir.DataType.from_numpy(array.dtype)
    graph = ir.Graph(
        [one for one in given_inputs if one is not None],
        results,
        nodes=tape.nodes,
        initializers=[one for one in stored if one is not None],
        opset_imports={"": OPSET, MS: 1, "rbee": 1},
        name="one operator",
    )
    return ir.Model(graph, ir_version=10, functions=[function] if function else [])


def session(of: ir.Model, *, native: bool, variant: str | None = None) -> ort.InferenceSession:
    """Open a model with the native kernels, the fastest or those of a variant, or without."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    # Between two parts of a run a thread would spin, on a core that another test has.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    if native:
        with mock.patch.dict(os.environ, {"RBEE_KERNELS": variant or ""}):
            options.register_custom_ops_library(str(kernels.library()))
    data = ir.to_proto(of).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def natively(of: ir.Model, inputs: Arrays) -> list[NDArray[Any]]:
    """Return the outputs of the native kernels, which are the same bits in every variant."""
    first, *others = (
        session(of, native=True, variant=variant).run(None, dict(inputs)) for variant in VARIANTS
    )
    for variant, found in zip(VARIANTS[1:], others, strict=True):
        for f, w in zip(found, first, strict=True):
            np.testing.assert_array_equal(f, w, err_msg=f"{variant} beside {VARIANTS[0]}")
    return list(first)


def both(of: ir.Model, inputs: Arrays) -> list[list[NDArray[Any]]]:
    """Return the outputs of the native kernels, and of ONNX Runtime's."""
    return [natively(of, inputs), session(of, native=False).run(None, dict(inputs))]


def assert_near(
    found: list[NDArray[Any]], wanted: list[NDArray[Any]], tolerance: float = 2e-6
) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            f, w, rtol=0, atol=tolerance * max(1.0, float(np.abs(w).max(initial=0)))
        )


def run_in_place(
    opened: ort.InferenceSession, inputs: Arrays, states: Arrays, width: int
) -> NDArray[Any]:
    """Run with states written where they are read, and return what comes before them.

    Args:
        opened: Gives ``y0``, ``float[B, S, width]``, and then the states.
        inputs: All others, the first of ``[B, S, ...]``.
        states: In the order in which they are given.
        width: Of the outcome.
    """
    binding = opened.io_binding()
    for name, array in {**inputs, **states}.items():
        binding.bind_cpu_input(name, array)
    y: NDArray[Any] = np.empty((*next(iter(inputs.values())).shape[:2], width), np.float32)
    for number, array in enumerate((y, *states.values())):
        address = array.ctypes.data
        binding.bind_output(f"y{number}", "cpu", 0, array.dtype, array.shape, address)
    opened.run_with_iobinding(binding)
    return y
