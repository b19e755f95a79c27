"""A backend around another, for what looks at its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.backend import Backend
from rbee_runtime.sampling import RowSampler, sample
from rbee_runtime.step import Step


class WrappedBackend:
    """Passes everything on; a step that draws goes through :meth:`run` as well."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.slots, self.capacity = backend.name, backend.slots, backend.capacity
        self.blocks, self.weight_bytes = backend.blocks, backend.weight_bytes
        self.cache_bytes = self.cache_used = backend.cache_bytes
        self.snapshots = backend.snapshots
        self.most_drafted = backend.most_drafted
        self.transfer = backend.transfer
        self.warm_up, self.held = backend.warm_up, backend.held

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run a step and draw from its logits."""
        logits = self.run(step)
        return sample(logits, samplers) if samplers else []

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run a step."""
        return self._backend.run(step)
