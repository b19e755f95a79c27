"""Which kernels run: the variants of the library, the choice among them, and what they are of."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.native import VARIANTS, model, needs_kernels

from rbee_runtime import DeviceError, kernels
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import HostDevice
from rbee_runtime.drawing import How
from rbee_runtime.kernels.drawing import native_draw

LIBRARY = Path(kernels.__file__).with_name("librbee_kernels.so")
CHOICE = "RBEE_KERNELS"
CPUINFO = "processor : 0\nflags\t\t: fpu {}\n"


def normed() -> ir.Model:
    x = {name: np.ones((1, 2, 16), np.float32) for name in ("x", "skip")}
    gamma = {"gamma": np.ones(16, np.float32)}
    return model("SkipSimplifiedLayerNormalization", x, gamma, {"epsilon": 1e-5})


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what the processor has; there is a library."""
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.setattr(kernels, "_PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(kernels, "_LIBRARY", tmp_path / "library.so")
    (tmp_path / "library.so").touch()
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize("choice", ["onnxruntime", *VARIANTS])
def test_the_log_says_when_the_kernels_do_not_run(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
) -> None:
    if choice != "onnxruntime" and not LIBRARY.exists():
        pytest.skip("the kernels are not compiled")
    monkeypatch.setenv(CHOICE, choice)
    ir.save(normed(), tmp_path / "model.onnx")
    with caplog.at_level(logging.INFO):
        opened = open_session(tmp_path / "model.onnx", HostDevice(), native=True)
    ones = np.ones((1, 2, 16), np.float32)
    np.testing.assert_allclose(opened.run(None, {"x": ones, "skip": ones})[0], ones, rtol=1e-5)
    said = f"ONNX Runtime's own kernels: {CHOICE}=onnxruntime" in caplog.text
    assert said == (choice == "onnxruntime")


@pytest.mark.parametrize(
    ("flags", "runs"),
    [
        ("fma f16c avx", ()),
        ("fma f16c avx2", ("avx2",)),
        ("fma f16c avx2 avx_vnni", ("avxvnni", "avx2")),
        # Skylake-X: no VNNI.
        ("fma f16c avx2 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl", ("avx2",)),
        (
            "fma f16c avx2 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni",
            ("avx512", "avx2"),
        ),
    ],
)
def test_what_a_processor_runs(processor: Path, flags: str, runs: tuple[str, ...]) -> None:
    processor.write_text(CPUINFO.format(flags), encoding="utf-8")
    assert kernels.variants() == runs


def test_without_library_or_instructions(processor: Path) -> None:
    processor.write_text(CPUINFO.format("fma avx"), encoding="utf-8")
    with pytest.raises(kernels.NoKernels, match=r"the processor has no avx2, f16c$"):
        kernels.library()
    kernels._LIBRARY.unlink()
    with pytest.raises(kernels.Uncompiled, match="ours are not compiled: install a C") as told:
        kernels.library()
    assert told.value.is_remediable


def test_a_choice_that_cannot_be_had(processor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor.write_text(CPUINFO.format("fma f16c avx2 avx_vnni"), encoding="utf-8")
    monkeypatch.setenv(CHOICE, "avx512")
    with pytest.raises(
        DeviceError,
        match=r"^RBEE_KERNELS=avx512: the processor has no avx512_vnni, avx512bw, .*; "
        r"what it runs: avx2, avxvnni, onnxruntime$",
    ):
        kernels.library()
    monkeypatch.setenv(CHOICE, "AVX2")
    with pytest.raises(
        DeviceError,
        match=r"^RBEE_KERNELS=AVX2 is not known; use avx2, avxvnni, avx512, amx or onnx",
    ):
        kernels.library()
    monkeypatch.setenv(CHOICE, "avx2")
    kernels.library()
    kernels._LIBRARY.unlink()
    with pytest.raises(DeviceError, match="RBEE_KERNELS=avx2: the kernels are not compiled"):
        kernels.library()


def test_a_wrong_choice_ends_what_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, "fast")
    ir.save(normed(), tmp_path / "model.onnx")
    with pytest.raises(DeviceError, match="RBEE_KERNELS=fast is not known"):
        open_session(tmp_path / "model.onnx", HostDevice(), native=True)


@needs_kernels
def test_the_library_runs_what_the_processor_is_said_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("avx2", "avxvnni", "avx512", "none"):
        monkeypatch.setenv(CHOICE, name)
        options = ort.SessionOptions()
        if name in VARIANTS:
            options.register_custom_ops_library(str(LIBRARY))
        else:
            with pytest.raises(Exception, match=f"RBEE_KERNELS={name}"):
                options.register_custom_ops_library(str(LIBRARY))


@needs_kernels
@pytest.mark.parametrize("size", [1, 15, 511, 512, 4099])
def test_variants_draw_the_same_tokens(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(size)
    logits = (3 * random.standard_normal((50, size))).astype(np.float32)
    logits[-1, -1] = np.nan
    how = [
        How(inverse_temperature=t, top_k=k, top_p=p, min_p=m, uniform=random.random())
        for t, k, p, m in zip(
            [0.0, 1.0, 0.5, 2.0, 1.0] * 10,
            [0, 0, 7, 40, 0] * 10,
            [1.0, 0.9, 1.0, 0.8, 0.5] * 10,
            [0.0, 0.0, 0.0, 0.01, 0.05] * 10,
            strict=True,
        )
    ]
    drawn, weights = {}, {}
    for variant in VARIANTS:
        monkeypatch.setenv(CHOICE, variant)
        weights[variant] = logits.copy()
        drawn[variant] = native_draw()(weights[variant], how)
        assert drawn[variant] == drawn[VARIANTS[0]]
        np.testing.assert_array_equal(weights[variant], weights[VARIANTS[0]])
    assert drawn[VARIANTS[0]][-1] == -1


def functions() -> dict[str, list[str]]:
    """Return the library's instructions, by the variant whose function they are in."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", LIBRARY],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, list[str]] = defaultdict(list)
    variant = ""
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            named = re.search(r"4rbee\d(avx2|avxvnni|avx512)", start[1])
            variant = named[1] if named else ""
        elif "\t" in line:
            found[variant].append(line.split("\t")[1])
    return found


@pytest.mark.skipif(not LIBRARY.exists(), reason="the kernels are not compiled")
@pytest.mark.skipif(not shutil.which("objdump"), reason="there is no objdump (binutils)")
def test_no_variant_has_instructions_of_another() -> None:
    found = functions()
    assert set(found) == {"", "avx2", "avxvnni", "avx512"}
    # Masks, registers of 512 bits and the registers above the sixteenth are AVX-512's alone.
    only_avx512 = re.compile(r"%k[0-7]|%zmm|%[xy]mm(1[6-9]|2\d|3[01])")
    for variant, instructions in found.items():
        wide = any(only_avx512.search(one) for one in instructions)
        assert wide == (variant == "avx512"), variant
        products = any("vpdpbusd" in one for one in instructions)
        assert products == (variant in ("avxvnni", "avx512")), variant
        # What all share, C++'s own functions with it, runs on any processor.
        vectors = any(re.match(r"(\{vex\} )?v[a-z]", one) for one in instructions)
        assert vectors == (variant != ""), variant


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or not shutil.which("c++"),
    reason="nothing to compile the kernels with, or for",
)
def test_an_installation_compiles_them() -> None:
    assert LIBRARY.exists()
