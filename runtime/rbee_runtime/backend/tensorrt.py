"""Artifacts of the standard dialect as a backend: an engine of TensorRT's, or the graph itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.bound_step import bucket_of, buckets, first_turn
from rbee_runtime.backend.device_sampler import DeviceSampler
from rbee_runtime.backend.session import GRAPH_OFF
from rbee_runtime.backend.tensorrt_tensors import tensors
from rbee_runtime.cache import KvArena
from rbee_runtime.device import Array, CudaDevice, Layout, Staging
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.memory import CachePlan
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step
from rbee_runtime.transfer import Transfer

_LOG = logging.getLogger("rbee.backend")


class Bound(Protocol):
    """A step with everything bound that it reads and writes."""

    def run(self, tokens: int) -> None:
        """Run it; see :meth:`rbee_runtime.backend.session.Binding.run`."""


class Executor(Protocol):
    """What computes a step of the standard dialect.

    Attributes:
        name: The backend's, ``tensorrt`` or ``cuda``.
        most_tokens: Tokens of a prompt in one step at most.
        weight_bytes: Bytes of its weights.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def most_tokens(self) -> int: ...  # noqa: D102
    @property
    def weight_bytes(self) -> int: ...  # noqa: D102

    def bind(self, arrays: Mapping[str, Array], rows: int | None = None) -> Bound:
        """Return what runs a step over arrays, which have to outlive it.

        Args:
            arrays: By the names of the graph's inputs and outputs.
            rows: Of a step that decodes, and will do so often. ``None`` for one of a prompt, to be
                run before the next such call.
        """
        ...

    def forgo_captures(self) -> None:
        """Capture nothing any more; what was bound before is not to be run again."""
        ...


class TensorRtBackend:
    """Runs an artifact of the ``standard`` dialect on a GPU.

    Past and present of every layer are the same memory, which the graph extends in place. Every
    slot holds as many positions as the engine was built for, whatever a request may use of them.
    Steps that decode are replayed from captured graphs, one for each of a few numbers of rows;
    rows that are too many decode a token of their slot which its owner will overwrite.

    Attributes:
        name: ``tensorrt``, or ``cuda`` where ONNX Runtime's CUDA provider computes.
        slots: Sequences the cache holds.
        capacity: Positions of each slot that requests may use.
        blocks: Blocks kept beside the slots.
        weight_bytes: Bytes of the weights on the GPU.
        cache_bytes: Bytes of the cache.
        snapshots: None: there are no states.
        most_drafted: None: a step decodes one token of each slot.
    """

    most_drafted = 0
    snapshots = None

    def __init__(
        self,
        artifact: Artifact,
        executor: Executor,
        samplers: tuple[ort.InferenceSession, ort.InferenceSession],
        plan: CachePlan,
        device: CudaDevice,
        *,
        capacity: int | None = None,
    ) -> None:
        """Reserve the cache and bind it.

        Args:
            artifact: What the executor runs.
            executor: What computes.
            samplers: Sessions of the graphs that draw tokens: the greedy one, and the other.
            plan: How large the cache is; as many positions as the executor takes, no more rows.
            device: Where it is.
            capacity: Positions that requests may use, if fewer than there are.

        Raises:
            OutOfMemory: The device has no room.
        """
        manifest = artifact.manifest
        self.name = executor.name
        self.weight_bytes = executor.weight_bytes
        self.capacity = min(capacity or plan.capacity, plan.capacity)
        self._executor = executor
        self._device = device
        self._manifest = manifest
        self._arena = KvArena(
            plan.geometry,
            plan.slots,
            plan.capacity,
            plan.blocks,
            chunk=plan.chunk,
            device=device,
        )
        self.slots, self.blocks = plan.slots, plan.blocks
        self.cache_bytes = self._arena.nbytes
        self._names = [tensor.name for tensor in tensors(manifest, plan.capacity)]
        self._logits = device.zeros((plan.slots, manifest.shapes.vocab), "float32")
        self._prompt = device.stage(_layout(1, executor.most_tokens))
        self._buckets = buckets(plan.slots)
        self._decode = {rows: self._bind_decode(rows) for rows in self._buckets}
        self._sampler = DeviceSampler(*samplers, self._logits, device)
        self._prepare_sampler(captured=True)

    @property
    def cache_used(self) -> int:
        """All bytes of the cache: it is allocated at once."""
        return self.cache_bytes

    def held(self) -> int:
        """Return the bytes of the device's memory that the process holds."""
        return self._device.held()

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step; see :class:`~rbee_runtime.backend.backend.Backend`."""
        self._run(step)
        values = np.empty((len(step.rows), self._manifest.shapes.vocab), np.float32)
        self._device.read(self._logits[: len(step.rows)], values)
        return values

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run one step and draw; see :class:`~rbee_runtime.backend.backend.Backend`."""
        rows = self._run(step)
        if not samplers:
            # What was staged may be overwritten once the device has taken it.
            self._device.finish()
            return []
        return self._sampler.draw(step.slot, samplers, rows)

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        self._device.use()
        self._arena.transfer(transfer)

    def warm_up(self) -> None:
        """Run two tokens of a prompt, and every number of rows, which captures those.

        See :class:`~rbee_runtime.backend.backend.Backend`.
        """
        try:
            self._run_each()
        except RuntimeFault as error:
            # ONNX Runtime's own captures end a step. A device that has failed says so here.
            self._device.end_capture()
            _LOG.warning("Running without captured graphs, which is slower: %s", error)
            self._executor.forgo_captures()
            self._decode = {rows: self._bind_decode(rows) for rows in self._buckets}
            self._prepare_sampler(captured=False)
            self._run_each()

    def _prepare_sampler(self, *, captured: bool) -> None:
        for rows in self._buckets:
            self._sampler.prepare(rows, rows if captured else GRAPH_OFF)

    def _run_each(self) -> None:
        self.advance(Step.of(0, 0, [0, 0]), None)
        for rows in self._buckets:
            self.advance(Step(0, [Row(0, [0])] * rows), None)
            self._sampler.warm_up(rows)

    def _run(self, step: Step) -> int:
        """Run a step and return how many rows it ran with."""
        self._device.use()
        rows = len(step.rows)
        if step.slot == 0 and len(step.rows[0].tokens) == 1:
            bucket = bucket_of(rows, self._buckets)
            self._run_decode(step.rows, bucket)
            return bucket
        for number in reversed(range(rows)):
            self._run_prompt(step.slot + number, step.rows[number])
            if number:
                # Only the first row's logits are sure to be aligned.
                self._device.copy(self._logits[number], self._logits[0])
                self._device.finish()
        return rows

    def _run_decode(self, rows: Sequence[Row], bucket: int) -> None:
        bound, staging = self._decode[bucket]
        idle = [Row(self._arena.next_position(slot), (0,)) for slot in range(len(rows), bucket)]
        for slot, row in enumerate(rows):
            self._arena.hold(slot, row.end)
        all_rows, host = [*rows, *idle], staging.host
        host["input_ids"][:, 0] = [row.tokens[0] for row in all_rows]
        host["write_indices"][:] = [row.past for row in all_rows]
        np.add(host["write_indices"], 1, out=host["nonpad_kv_seqlen"])
        host["position_ids"][:, 0] = [
            first_turn(self._manifest, row) + row.past for row in all_rows
        ]
        self._give(bound, staging, bucket)

    def _run_prompt(self, slot: int, row: Row) -> None:
        """Run tokens of one sequence, in as many pieces as the executor makes of them."""
        host, most, turn = (
            self._prompt.host,
            self._executor.most_tokens,
            first_turn(self._manifest, row),
        )
        for start in range(0, len(row.tokens), most):
            if start:
                # What was staged may be overwritten once the device has taken it.
                self._device.finish()
            tokens, past = row.tokens[start : start + most], row.past + start
            count = len(tokens)
            host["input_ids"][0, :count] = tokens
            host["write_indices"][0] = past
            host["nonpad_kv_seqlen"][0] = past + count
            host["position_ids"][0, :count] = np.arange(turn + past, turn + past + count)
            arrays = self._arrays(self._prompt, (1, count), slot)
            self._give(self._executor.bind(arrays), self._prompt, count)
        self._arena.hold(slot, row.end)

    def _give(self, bound: Bound, staging: Staging, tokens: int) -> None:
        """Give a step to the device, its inputs before it."""
        self._device.upload(staging)
        try:
            bound.run(tokens)
        except RuntimeFault:
            # Who tries again writes into what was staged. A device that has failed says so here.
            self._device.finish()
            raise

    def _bind_decode(self, rows: int) -> tuple[Bound, Staging]:
        staging = self._device.stage(_layout(rows, 1))
        arrays = self._arrays(staging, (rows, 1), 0)
        return self._executor.bind(arrays, rows), staging

    def _arrays(self, staging: Staging, sizes: tuple[int, int], slot: int) -> dict[str, Array]:
        """Return all that a step reads and writes, its first row in ``slot``."""
        rows, width = sizes
        arrays: dict[str, Array] = {
            name: array[:, :width] if len(array.shape) == 2 else array
            for name, array in staging.device.items()
            if name in self._names
        }
        arrays["logits"] = self._logits[:rows]
        for layer in range(self._manifest.cache.layers):
            views = self._arena.rows(layer, slot, rows)
            for kind, memory in zip(("key", "value"), views, strict=True):
                arrays[f"past_{kind}.{layer}"] = arrays[f"present_{kind}.{layer}"] = memory
        return arrays


def _layout(rows: int, width: int) -> Layout:
    """Return the inputs that a step of ``rows`` with ``width`` tokens each is told by."""
    return {
        "input_ids": ((rows, width), "int64"),
        "position_ids": ((rows, width), "int64"),
        "write_indices": ((rows,), "int64"),
        "nonpad_kv_seqlen": ((rows,), "int64"),
    }
