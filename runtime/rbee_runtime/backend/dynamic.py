"""A backend for graphs whose cache comes out of each step longer than it went in."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.session import Binding
from rbee_runtime.device import HostDevice
from rbee_runtime.errors import ArtifactError, InferenceFailed, OutOfMemory
from rbee_runtime.memory import CachePlan
from rbee_runtime.sampling import RowSampler, sample
from rbee_runtime.step import Row, Step
from rbee_runtime.transfer import Move, Swap, Transfer
from rbee_runtime.units import human_size

_PAST = re.compile(r"past_key_values\.(\d+\.(?:key|value))")


class DynamicBackend:
    """Runs an artifact of the ``optimum`` dialect on the CPU provider.

    The graph reads the past of a slot, ``[1, heads, past, width]`` a tensor, and writes past and
    new positions together. Each slot has a region of memory with room for ``capacity`` positions,
    and one region is spare: a step reads from the slot's and writes to the spare one, which then
    is the slot's. So nothing is allocated or copied besides what the graph itself does, and a step
    that fails leaves the slot with the past it was to continue.

    Attributes:
        name: ``cpu``.
        slots: Sequences the cache holds.
        capacity: Positions of each slot.
        snapshots: None: there are no states.
        blocks: None: in these regions, adding to a past means to lay it out anew.
        weight_bytes: Bytes of the weights.
        most_drafted: None: rows have one slot each.
    """

    name = "cpu"
    blocks = 0
    snapshots = None
    most_drafted = 0

    def __init__(self, artifact: Artifact, session: ort.InferenceSession, plan: CachePlan) -> None:
        graph = artifact.file("graph")
        self.weight_bytes = artifact.weight_bytes
        slots, capacity = plan.slots, plan.capacity
        self._session = session
        self._device = HostDevice()
        self._tensors = _cache_tensors(self._session, graph)
        self._check(artifact, graph)
        self.slots = slots
        self.capacity = capacity
        self._regions = _Regions(self._tensors, slots + 1, capacity)
        self._region = list(range(slots))
        self._spare = slots
        self._held = [0] * slots
        self._most = [0] * (slots + 1)
        self._takes_positions = "position_ids" in {i.name for i in self._session.get_inputs()}
        self._mask = np.ones((1, capacity), np.int64)
        self._positions = np.arange(capacity, dtype=np.int64)[None]
        self._logits = np.zeros((slots, artifact.manifest.shapes.vocab), np.float32)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, the spare region among them."""
        return self._regions.nbytes

    @property
    def cache_used(self) -> int:
        """Bytes of the cache that have been in use at most."""
        return sum(self._most) * self._regions.bytes_per_position

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step, its rows one after the other, as what they hold differs in length.

        See :class:`~rbee_runtime.backend.backend.Backend`. ``past`` may be less than what the slot
        holds: the rest is forgotten.
        """
        for number, row in enumerate(step.rows):
            self._run_row(step.slot + number, row, self._logits[number])
        return self._logits[: len(step.rows)]

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run one step and draw; see :class:`~rbee_runtime.backend.backend.Backend`."""
        logits = self.run(step)
        return sample(logits, samplers) if samplers else []

    def warm_up(self) -> None:
        """Run a token of every slot; see :class:`~rbee_runtime.backend.backend.Backend`."""
        self.run(Step(0, [Row(0, [0])] * self.slots))

    def held(self) -> int:
        """Return the bytes of memory that the process holds."""
        return self._device.held()

    def transfer(self, transfer: Transfer) -> None:
        """Bring what a slot holds to another. Nothing is copied: the two trade regions."""
        match transfer:
            case Move(one, other) | Swap(one, other):
                for known in (self._region, self._held):
                    known[one], known[other] = known[other], known[one]
            case _:
                raise ValueError("this cache has no blocks")

    def _run_row(self, slot: int, row: Row, logits: NDArray[np.float32]) -> None:
        total = row.end
        if total > self.capacity:
            raise InferenceFailed(
                f"the step ends at position {total} of a slot that holds {self.capacity}"
            )
        self._rewind(slot, row.past)
        binding = Binding(self._session, self._device)
        ids = np.asarray([row.tokens], np.int64)
        binding.input("input_ids", ids)
        binding.input("attention_mask", self._mask[:, :total])
        if self._takes_positions:
            binding.input("position_ids", self._positions[:, row.past : total])
        binding.output("logits", logits[None, None])
        source, target = self._region[slot], self._spare
        for tensor, past in self._regions.views(source, row.past):
            binding.input(tensor.past, past)
        for tensor, present in self._regions.views(target, total):
            binding.output(tensor.present, present)
        binding.run(len(row.tokens))
        self._region[slot], self._spare = target, source
        self._held[slot] = total
        self._most[target] = max(self._most[target], total)

    def _rewind(self, slot: int, past: int) -> None:
        held = self._held[slot]
        if past > held:
            raise InferenceFailed(
                f"the step continues at position {past} of a slot that holds {held}"
            )
        if 0 < past < held:
            region = self._region[slot]
            whole, kept = self._regions.views(region, held), self._regions.views(region, past)
            for (_, before), (_, after) in zip(whole, kept, strict=True):
                after[:] = before[:, :, :past].copy()
        self._held[slot] = past

    def _check(self, artifact: Artifact, graph: Path) -> None:
        """See that the graph is what the manifest and this class take it for."""
        ours = {"input_ids", "attention_mask", "position_ids", *(t.past for t in self._tensors)}
        theirs = {value.name for value in self._session.get_inputs()}
        if unknown := sorted(theirs - ours):
            raise ArtifactError(f"{graph}: has an input {unknown[0]!r} of no known meaning")
        if missing := sorted({"input_ids", "attention_mask"} - theirs):
            raise ArtifactError(f"{graph}: lacks the input {missing[0]!r}")
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        for tensor in self._tensors:
            if tensor.present not in outputs:
                raise ArtifactError(f"{graph}: lacks the output {tensor.present!r}")
        manifest = artifact.manifest
        if outputs.get("logits", ())[1:] != [1, manifest.shapes.vocab]:
            raise ArtifactError(f"{graph}: its logits are not those of one token")
        needed = sum(tensor.heads * tensor.width for tensor in self._tensors) * 4
        if needed > manifest.cache.bytes_per_token:
            raise ArtifactError(
                f"{graph}: needs {needed} bytes of cache a token, its manifest says "
                f"{manifest.cache.bytes_per_token}; export the model again"
            )


@dataclass(frozen=True, slots=True)
class _CacheTensor:
    """One tensor of the cache: keys or values of a layer.

    Attributes:
        past: Name of the input.
        present: Name of the output.
        heads: Key and value heads.
        width: Elements of a head.
    """

    past: str
    present: str
    heads: int
    width: int


class _Regions:
    """Memory for several copies of the cache, handed out by the system as it is first written.

    Attributes:
        nbytes: Bytes of the whole.
        bytes_per_position: Bytes of a position of one copy.
    """

    def __init__(self, tensors: list[_CacheTensor], count: int, capacity: int) -> None:
        self._tensors = tensors
        self._capacity = capacity
        width = sum(tensor.heads * tensor.width for tensor in tensors)
        size = capacity * width
        self.bytes_per_position = width * np.dtype(np.float32).itemsize
        self.nbytes = count * capacity * self.bytes_per_position
        try:
            memory = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise OutOfMemory(f"the KV cache needs {human_size(self.nbytes)}: {error}") from error
        self._data = np.frombuffer(memory, np.float32).reshape(count, size)

    def views(
        self, region: int, positions: int
    ) -> Iterator[tuple[_CacheTensor, NDArray[np.float32]]]:
        """Yield each tensor and its first positions, ``float32[1, heads, positions, width]``."""
        start = 0
        for tensor in self._tensors:
            shape = (1, tensor.heads, positions, tensor.width)
            view = self._data[region, start : start + math.prod(shape)].reshape(shape)
            yield tensor, view
            start += tensor.heads * self._capacity * tensor.width


def _cache_tensors(session: ort.InferenceSession, graph: Path) -> list[_CacheTensor]:
    tensors = []
    for value in session.get_inputs():
        match = _PAST.fullmatch(value.name)
        if match is None:
            continue
        shape = value.shape
        if value.type != "tensor(float)" or len(shape) != 4 or not _are_sizes(shape[1], shape[3]):
            raise ArtifactError(
                f"{graph}: its cache {value.name} is {value.type} of {shape}, "
                "not float of [batch, heads, positions, width]"
            )
        tensors.append(_CacheTensor(value.name, f"present.{match[1]}", shape[1], shape[3]))
    if not tensors:
        raise ArtifactError(f"{graph}: has no cache")
    return tensors


def _are_sizes(*dimensions: object) -> bool:
    return all(isinstance(size, int) and size > 0 for size in dimensions)
