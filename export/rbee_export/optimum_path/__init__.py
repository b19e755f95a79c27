"""What the decoder definition does not cover, through optimum's exporter."""

from rbee_export.optimum_path.compile import Compiled, StageProgress, export_with_optimum

__all__ = ["Compiled", "StageProgress", "export_with_optimum"]
