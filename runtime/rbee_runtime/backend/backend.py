"""The protocol between engine and backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Step
from rbee_runtime.transfer import Transfer


class Backend(Protocol):
    """A loaded model with its cache.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``.
        slots: Sequences its cache holds.
        capacity: Positions of each slot.
        blocks: Blocks its cache has beside the slots.
        snapshots: Snapshots of states it has beside them; ``None`` where sequences have no states.
        weight_bytes: Bytes of the model's weights.
        cache_bytes: Bytes of the cache.
        cache_used: Of these, how many have been in use at most.
        most_drafted: Tokens drafted in a step at most; 0 where none can be.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def slots(self) -> int: ...  # noqa: D102

    @property
    def capacity(self) -> int: ...  # noqa: D102

    @property
    def blocks(self) -> int: ...  # noqa: D102

    @property
    def snapshots(self) -> int | None: ...  # noqa: D102

    @property
    def weight_bytes(self) -> int: ...  # noqa: D102

    @property
    def cache_bytes(self) -> int: ...  # noqa: D102

    @property
    def cache_used(self) -> int: ...  # noqa: D102

    @property
    def most_drafted(self) -> int: ...  # noqa: D102

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step, filling the cache.

        Returns:
            Logits of each row's last token, ``float32[rows, vocab]``, or where tokens are drafted
            of all, in the order of :meth:`~rbee_runtime.step.Step.apart`; valid until the next call
            and free to be overwritten.

        Raises:
            OutOfMemory: The device could not provide what the step needs.
            InferenceFailed: The provider failed otherwise.
        """
        ...

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run one step and draw a token for each row, where the backend has its logits.

        Args:
            step: What to run.
            samplers: One for each row; ``None`` only fills the cache.

        Returns:
            A token id a row, recorded in its sampler; ``None`` where a row has no largest logit.
            Nothing without samplers.

        Raises:
            OutOfMemory: The device could not provide what the step needs.
            DeviceLost: It has failed, and no step will run any more.
            InferenceFailed: The provider failed otherwise.
        """
        ...

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        ...

    def warm_up(self) -> None:
        """Run what will be run, once, on the thread that will run it; the cache is void then.

        Raises:
            OutOfMemory: The device could not provide what a step needs.
            DeviceLost: It has failed.
            InferenceFailed: The provider failed otherwise.
        """
        ...

    def held(self) -> int:
        """Return the bytes of the device's memory that the process holds."""
        ...
