"""What a worker does when the hive, a client, its engine, its disk or its clock fails it."""

from rbee_bench.faults.case import Case, Model
from rbee_bench.faults.matrix import CASES, FaultRow, Faults, measure_faults, run_case

__all__ = ["CASES", "Case", "FaultRow", "Faults", "Model", "measure_faults", "run_case"]
