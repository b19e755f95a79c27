"""How the decoder's definition becomes a graph, or numbers."""

from rbee_export.dialect.calibrated import CalibratedDialect
from rbee_export.dialect.half_cache import halve_cache
from rbee_export.dialect.ort import OrtDialect
from rbee_export.dialect.reference import ReferenceDialect
from rbee_export.dialect.sampler import greedy_graph, sampler_graph
from rbee_export.dialect.standard import StandardDialect

__all__ = [
    "CalibratedDialect",
    "OrtDialect",
    "ReferenceDialect",
    "StandardDialect",
    "greedy_graph",
    "halve_cache",
    "sampler_graph",
]
