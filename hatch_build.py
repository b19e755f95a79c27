"""What an installation does besides copying: it compiles the native kernels, where it can."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface[Any]):
    """Compiles ``runtime/native``; without a compiler the package is pure Python, and slower."""

    PLUGIN_NAME = "custom"

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        """See :class:`hatchling.builders.hooks.plugin.interface.BuildHookInterface`."""
        native = runpy.run_path(str(Path(self.root) / "runtime" / "native" / "build.py"))
        try:
            library: Path = native["build"]()
        except native["CannotBuild"] as error:
            self.app.display_warning(str(error))
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
