"""The pinned lists hold what a worker needs, within pyproject's ranges, and no more."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import Distribution

import pytest
from dockerfile import ROOT, read_stages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHON = re.findall(r"python:(\d+\.\d+)\.", read_stages(ROOT / "Dockerfile.gpu")[0].base)[0]
IMAGE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
}


def pins(name: str) -> dict[str, str]:
    """Return the versions in a list, by canonical name; lists that it includes too."""
    found: dict[str, str] = {}
    for line in (ROOT / "deploy" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("--requirement "):
            found |= pins(line.split()[1])
        elif line and not line.startswith("#"):
            package, version = line.split("==")
            assert canonicalize_name(package) not in found, f"{package} is there twice"
            found[canonicalize_name(package)] = version
    return found


def applying(lines: list[str], extras: set[str]) -> list[Requirement]:
    """Return those requirements that hold in the image."""
    asked = [Requirement(line) for line in lines]
    return [
        one
        for one in asked
        if one.marker is None
        or any(one.marker.evaluate(IMAGE | {"extra": e}) for e in {"", *extras})
    ]


def demands(
    name: str,
    lines: list[str],
    find: Callable[[str], Distribution] = importlib.metadata.distribution,
) -> tuple[set[str], set[str]]:
    """Follow requirements through the packages that are installed at the pinned version.

    Args:
        name: Of the list.
        lines: The requirements to begin with.
        find: Returns an installed package, of those here by default.

    Returns:
        The packages met, and those of them that cannot be followed.
    """
    pinned = pins(name)
    met: set[str] = set()
    blind: set[str] = set()
    followed: set[tuple[str, frozenset[str]]] = set()
    pending = applying(lines, set())
    while pending:
        one = pending.pop()
        package = canonicalize_name(one.name)
        assert package in pinned, f"{one} is not in deploy/{name}"
        assert one.specifier.contains(pinned[package], prereleases=True), (
            f"{one}: {pinned[package]}"
        )
        met.add(package)
        if (package, frozenset(one.extras)) in followed:
            continue
        followed.add((package, frozenset(one.extras)))
        try:
            here = find(package)
        except importlib.metadata.PackageNotFoundError:
            blind.add(package)
            continue
        if here.version != pinned[package]:
            blind.add(package)
            continue
        pending += applying(here.requires or [], set(one.extras))
    return met, blind


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("cpu.txt", PROJECT["dependencies"]),
        ("cuda.txt", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cuda"]]),
    ],
)
def test_every_demand_is_pinned_within_its_range(name: str, lines: list[str]) -> None:
    met, _ = demands(name, lines)
    assert len(met) > len(applying(lines, set())) // 2


def test_cuda_adds_nothing_but_libraries_of_nvidia() -> None:
    added = set(pins("cuda.txt")) - set(pins("cpu.txt"))
    assert added
    assert all(name.startswith("nvidia-") for name in added)


def test_no_framework() -> None:
    frameworks = {"torch", "transformers", "optimum", "optimum-onnx", "tensorflow", "jax"}
    assert not frameworks & set(pins("cuda.txt"))


def test_the_wheel_is_built_by_what_pyproject_names() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    pinned = pins("build.txt")
    for one in map(Requirement, built["requires"]):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)])
