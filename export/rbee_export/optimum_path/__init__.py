"""What the decoder definition does not cover, through optimum's exporter."""

from rbee_export.optimum_path.compile import (
    INSTALL,
    Compiled,
    StageProgress,
    export_with_optimum,
    is_installed,
)

__all__ = ["INSTALL", "Compiled", "StageProgress", "export_with_optimum", "is_installed"]
