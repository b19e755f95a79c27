"""The image, built once without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from bare_root import bare_root
from builder import Builder, copy_context
from dockerfile import ROOT, read_stages
from image import Image, Mount, why_not
from test_pinned_packages import pins

from rbee_runtime import kernels

_FETCH_SECONDS = 200.0
# In the image ziglang compiles the kernels, which takes it more than a minute, as it begins with
# C++'s own library; RBEE_IMAGE_COMPILER=own has it do so. Otherwise a package of its name, in place
# of 18,000 files, hands out what was compiled here.
_COMPILER = """import shutil, sys
shutil.copyfile("/wheels/kernels.so", sys.argv[sys.argv.index("-o") + 1])
"""


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Whatever builds the stages of ``Dockerfile.gpu`` with ``LIBRARIES=cpu``."""
    stages = read_stages(ROOT / "Dockerfile.gpu")
    if missing := _other_python(stages[0].base) or why_not():
        pytest.skip(missing)
    work = tmp_path_factory.mktemp("image")
    try:
        wheels = work / "wheels"
        wanted = pins("cpu.txt") | pins("build.txt")
        if library := _compiled():
            _lend(library, wanted.pop("ziglang"), wheels)
        _fetch(wanted, wheels)
        rules = (ROOT / ".dockerignore").read_text(encoding="utf-8")
        copy_context(ROOT, rules, work / "context")
        bare_root(work / "base")
        code, said = Image(work / "base").run(["python", "-m", "ensurepip"], writable=True)
        assert code == 0, said
        mounts = [Mount(wheels, "/wheels")]
        # Nothing comes from elsewhere, and the network needs not be set up in there.
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        arguments = {"LIBRARIES": "cpu"}
        yield Builder(stages, work / "context", work / "base", work, arguments, mounts, index)
    finally:
        # More than a gigabyte, of which pytest would keep those of three runs.
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="session")
def worker_image(builder: Builder) -> Image:
    """What a plain ``docker build --build-arg LIBRARIES=cpu`` makes."""
    return builder.build("worker")


@pytest.fixture(scope="session")
def exporter_image(builder: Builder) -> Image:
    """The same with ``--target exporter``."""
    return builder.build("exporter")


def _other_python(base: str) -> str:
    (image,) = re.findall(r"python:(\d+\.\d+)\.", base)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != image:
        return f"the image has Python {image}, this is {here}"
    if Path(sys.base_prefix) == Path("/usr"):
        return "the system's own Python is no Python to lay into an image"
    return ""


def _fetch(wanted: Mapping[str, str], wheels: Path) -> None:
    """Have the pip of here, with its settings, fetch what the pip of the image is to install."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1"]
    packages = [f"{name}=={version}" for name, version in wanted.items()]
    try:
        fetched = subprocess.run(
            [*command, "--dest", wheels, *packages],
            capture_output=True,
            text=True,
            check=False,
            timeout=_FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the pinned packages cannot be fetched within {_FETCH_SECONDS:.0f} s")
    if fetched.returncode:
        said = fetched.stderr.strip().splitlines()
        # pip says of an index that it does not reach that the index lacks the package.
        if any("Retrying (" in line or "onnection" in line for line in said):
            pytest.skip(f"the pinned packages cannot be fetched: {said[-1]}")
        pytest.fail(f"the pinned packages are not to be had: {said[-1]}")


def _compiled() -> Path | None:
    """Return the kernels that were compiled here, unless they are to be compiled again."""
    if os.environ.get("RBEE_IMAGE_COMPILER") == "own":
        return None
    try:
        return kernels.library()
    except kernels.NoKernels:
        return None


def _lend(library: Path, version: str, wheels: Path) -> None:
    """Put a wheel beside the others that stands for ziglang, and the kernels that it hands out."""
    wheels.mkdir()
    shutil.copyfile(library, wheels / "kernels.so")
    about = f"ziglang-{version}.dist-info"
    files = {
        "ziglang/__init__.py": "",
        "ziglang/__main__.py": _COMPILER,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: ziglang\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(wheels / f"ziglang-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
