"""A directory that stands for ``/`` and holds little but the Python that the tests run with."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_BROUGHT_BY_DEBIAN = ("libstdc++.so.6", "libgcc_s.so.1")
"""What wheels may link to beyond what Python itself does; every Debian image has it."""


def bare_root(root: Path) -> None:
    """Lay out what the official image of Python has, as far as the build's steps use it.

    That is Python in ``/usr/local`` with the pip that it brings along, ``/bin/sh``, and the shared
    libraries of both. There is no compiler, no package and no other program.

    Args:
        root: A directory that does not exist yet.
    """
    for name in ("proc", "sys", "dev", "etc", "root", "usr/local/bin", "usr/local/lib", "bin"):
        (root / name).mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    shell = Path(shutil.which("sh") or "/bin/sh").resolve()
    shutil.copy2(shell, root / "bin" / "sh")
    extensions = _python(root / "usr" / "local")
    _libraries(root, [shell, _interpreter(), *extensions])


def _interpreter() -> Path:
    return Path(sys.base_prefix, "bin", _name())


def _name() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _python(prefix: Path) -> list[Path]:
    """Copy the interpreter and its library; return the extensions, as they lie here."""
    shutil.copy2(_interpreter(), prefix / "bin" / _name())
    for other in ("python", "python3"):
        (prefix / "bin" / other).symlink_to(_name())
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        stdlib,
        prefix / "lib" / _name(),
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "test", "config-*"),
    )
    (prefix / "lib" / _name() / "site-packages").mkdir()
    return sorted((stdlib / "lib-dynload").glob("*.so"))


def _libraries(root: Path, programs: Iterable[Path]) -> None:
    """Copy what programs and extensions are linked to, to where it lies here."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    cache = subprocess.run(
        [shutil.which("ldconfig") or "/sbin/ldconfig", "-p"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = set(re.findall(r"(/\S+) \(0x", told))
    for name in _BROUGHT_BY_DEBIAN:
        found.update(re.findall(rf"{re.escape(name)} \(libc6,x86-64.*\) => (/\S+)", cache)[:1])
    # Of the C library, wheels link to parts that Python does not.
    (libc,) = (Path(one) for one in found if Path(one).name == "libc.so.6")
    for pattern in ("lib[mc].so.6", "lib*vec.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1"):
        found.update(str(one) for one in libc.parent.glob(pattern))
    for one in found:
        target = root / one.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(one, target)
    shutil.copy2("/etc/ld.so.cache", root / "etc" / "ld.so.cache")
