"""Checkpoints of floating-point numbers of 8 bits, with scales beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.makers import MakeFamily
from support.tiny_llama import copy_of

from rbee_export import CheckpointError, open_checkpoint

# No multiples of 128, the size of a block.
SIZES = {"hidden_size": 192, "intermediate_size": 160}
NAMES = ("q", "k", "v", "o", "gate", "up", "down")

Shape = Callable[[int, int], tuple[int, ...]]
SHAPES: Mapping[str, Shape] = {
    "one": lambda _, __: (),
    "one in a list": lambda _, __: (1,),
    "of rows": lambda rows, _: (rows, 1),
    "of blocks": lambda rows, columns: (-(-rows // 128), -(-columns // 128)),
}


def spread(scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return the scale of each number."""
    if scales.ndim < 2:
        return scales.expand(rows, columns) if scales.ndim == 0 else scales[0].expand(rows, columns)
    down, across = (size if n > 1 else 1 for n, size in zip(scales.shape, (128, 128), strict=True))
    if scales.shape[0] == rows:
        down = 1
    wide = scales.repeat_interleave(down, 0).repeat_interleave(across, 1)[:rows, :columns]
    return wide.expand(rows, columns)


def in_eight_bits(model: Path, shape: Shape, suffix: str) -> dict[str, torch.Tensor]:
    """Bring the matrices of layers to 8 bits; return what they then stand for, by name."""
    tensors: dict[str, Any] = load_file(model / "model.safetensors")
    stands_for = {}
    random = torch.Generator().manual_seed(5)
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        matrix = tensors[name]
        scales = torch.rand(shape(*matrix.shape), generator=random) * 0.01 + 0.001
        scales = scales.to(torch.bfloat16)
        wide = spread(scales.float(), *matrix.shape)
        tensors[name] = (matrix / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors[f"{name}{suffix}"] = scales
        stands_for[name] = tensors[name].float() * wide
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    return stands_for


@pytest.mark.parametrize(
    ("family", "scales", "suffix"),
    [
        *(("llama", scales, "_scale_inv") for scales in SHAPES),
        ("llama", "of rows", "_scale"),
        ("phi3", "of blocks", "_scale_inv"),
        ("ernie4.5", "of blocks", "_scale_inv"),
    ],
)
def test_matrices_are_what_their_numbers_and_scales_make(
    family: str, scales: str, suffix: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    head_dim = {"phi3": 48, "llama": 48, "ernie4.5": 32}[family]
    source = make_family(family, **SIZES, head_dim=head_dim, num_attention_heads=4)
    model = copy_of(source, tmp_path)
    stands_for = in_eight_bits(model, SHAPES[scales], suffix)
    plain = copy_of(source, tmp_path / "plain")
    save_file({**load_file(plain / "model.safetensors"), **stands_for}, plain / "model.safetensors")
    ours, theirs = open_checkpoint(model), open_checkpoint(plain)
    for name in (f"layers.1.{part}" for part in NAMES):
        tensor, expected = ours.tensor(name), theirs.tensor(name).dense()
        assert tensor.kind == "F8_E4M3"
        np.testing.assert_array_equal(tensor.dense(), expected)
        np.testing.assert_array_equal(tensor.part(slice(30, 47)).dense(), expected[30:47])
        for rows, values in tensor.pieces(7 * tensor.shape[1]):
            np.testing.assert_array_equal(values, expected[rows])


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        (None, "has type F8_E4M3, and no scales beside it"),
        ((3, 7), "has scales of [3, 7], which is neither one for all"),
        ((1, 1, 1), "has scales of [1, 1, 1]"),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...] | None, problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    model = copy_of(make_family("llama"), tmp_path)
    in_eight_bits(model, lambda *_: (), "_scale_inv")
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    del tensors[f"{name}_scale_inv"]
    if shape is not None:
        tensors[f"{name}_scale_inv"] = torch.ones(shape)
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model).tensor("layers.0.q")
    assert problem in str(caught.value)
