"""The checks, the most valuable first, and what time each may take.

Seconds are planned for a GPU that reads 2 TB/s on a host of 8 cores: 5 to start a process with the
CUDA provider, 1 to write a model's weights of a gigabyte, 4 to bring 16 GB to the GPU. The time a
check is expected to take is well below its limit; together they take less than 8 minutes. What
explains the figures comes after them. vLLM, where it is installed, takes two minutes more:
``torch.compile`` comes last and may find no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

WHEELS: Mapping[str, str] = MappingProxyType(
    {
        "numpy": "numpy",
        "onnxruntime": "onnxruntime-gpu",
        "onnx": "onnx",
        "onnx_ir": "onnx-ir",
        "google.protobuf": "protobuf",
        "ml_dtypes": "ml_dtypes",
        "sympy": "sympy and mpmath",
        "pydantic": "pydantic, annotated-types and typing-inspection",
        "pydantic_core": "pydantic-core",
        "tokenizers": "tokenizers",
        "jinja2": "jinja2 and markupsafe",
        "psutil": "psutil",
        "pynvml": "nvidia-ml-py",
        "torch": "torch",
        "transformers": "transformers",
    }
)
"""Modules, and the wheels that bring them."""

TORCH = ("torch", "transformers")
OURS = tuple(module for module in WHEELS if module not in TORCH)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to find out, in a process of its own.

    Attributes:
        name: What it is called.
        entry: What to call there, ``module:function``, with a :class:`~gpu_check.child.Report`.
        arguments: To call it with, besides.
        limit: Seconds after which it is ended.
        least: Seconds below which there is no use in starting it.
        needs: Modules it imports.
        optional: Whether it may take too long without having failed.
        group: Checks of one group, which follow each other, run side by side: they time nothing.
    """

    name: str
    entry: str
    arguments: tuple[str, ...] = ()
    limit: float = 60
    least: float = 10
    needs: tuple[str, ...] = OURS
    optional: bool = False
    group: str = ""


PROVIDER = "provider"

CHECKS = (
    Check(PROVIDER, "gpu_check.provider:describe"),
    *(
        Check(f"parity {one}", "gpu_check.parity:compare", (one,), 150, group="parity")
        for one in ("fp16", "int4", "bf16", "int8", "gguf")
    ),
    Check("captured graphs", "gpu_check.captured:compare", limit=120, group="parity"),
    Check("parity TensorRT", "gpu_check.tensorrt:compare", limit=150, group="parity"),
    Check("memory accounting", "gpu_check.memory:account", limit=45),
    Check("memory exhaustion", "gpu_check.memory:exhaust", limit=60),
    Check("limits", "gpu_check.roof:copying", limit=30),
    Check("limits by torch", "gpu_check.roof:computing", limit=45, needs=TORCH),
    Check("1B fp16", "gpu_check.speed:measure", ("1B", "fp16"), limit=75),
    Check("8B fp16", "gpu_check.speed:measure", ("8B", "fp16"), limit=120, least=30),
    Check("8B eager", "gpu_check.torch_speed:eager", ("8B",), 90, 25, TORCH),
    Check("1B eager", "gpu_check.torch_speed:eager", ("1B",), 60, needs=TORCH),
    Check("8B int4", "gpu_check.speed:measure", ("8B", "int4"), limit=90, least=25),
    Check("1B int4", "gpu_check.speed:measure", ("1B", "int4"), limit=75),
    Check("8B fp16 products", "gpu_check.products:measure", ("8B", "fp16"), limit=60, least=20),
    Check("8B fp16 by Flash", "gpu_check.speed:by_flash", ("8B", "fp16"), limit=75, least=25),
    Check("8B vLLM", "gpu_check.vllm_speed:measure", ("8B",), 120, 45, (), True),
    Check("1B vLLM", "gpu_check.vllm_speed:measure", ("1B",), 90, 40, (), True),
    Check("1B compiled", "gpu_check.torch_speed:compiled", ("1B",), 120, 30, TORCH, True),
    Check("8B compiled", "gpu_check.torch_speed:compiled", ("8B",), 180, 45, TORCH, True),
)
