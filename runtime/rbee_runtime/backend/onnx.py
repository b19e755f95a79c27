"""ONNX Runtime as a backend: a session with its cache bound in place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.bound_step import BoundStep, bucket_of, buckets, first_turn, step_layout
from rbee_runtime.backend.device_sampler import DeviceSampler
from rbee_runtime.backend.session import GRAPH_OFF, Binding, open_session
from rbee_runtime.cache import KvArena
from rbee_runtime.device import Array, CudaDevice, Device
from rbee_runtime.errors import InferenceFailed, OutOfMemory, RuntimeFault
from rbee_runtime.memory import CachePlan
from rbee_runtime.sampling import RowSampler, sample
from rbee_runtime.step import MOST_DRAFTED, Row, Step
from rbee_runtime.transfer import BLOCK, Transfer

_LOG = logging.getLogger("rbee.backend")

_IN_BLOCKS = ("int8", "int4", "gguf")


class OnnxBackend:
    """Runs an artifact of the ``ort`` dialect on the CPU or a GPU.

    Past and present of every layer are bound to the same memory, which the attention operator
    extends in place: no step copies the cache. Bindings for steps that decode are kept; such a
    step writes its tokens into the bound inputs, and nothing is allocated.

    On a GPU, logits stay where they are and tokens are drawn there. Steps that decode are replayed
    from captured graphs, one for each of a few numbers of rows: those that are too many decode a
    token of their slot which its owner will overwrite.

    Where rows may share a slot (:mod:`rbee_export.dialect.half_cache`), a step may run tokens that
    are drafted, each as a row of its own: what such a row gets is the same bits as if its token had
    been drawn and had run in the step after.

    Attributes:
        name: ``cpu`` or ``cuda``.
        slots: Sequences the cache holds.
        capacity: Positions of each slot.
        blocks: Blocks kept beside the slots.
        snapshots: Snapshots of states kept beside them; ``None`` where sequences have no states.
        weight_bytes: Bytes of the weights.
        cache_bytes: Bytes of the cache.
        most_drafted: Tokens drafted in a step at most.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: ort.InferenceSession,
        plan: CachePlan,
        device: Device,
        *,
        graphs: bool = True,
    ) -> None:
        """Reserve the cache and bind it.

        Args:
            artifact: What the session runs.
            session: Of the device.
            plan: How large the cache is.
            device: Where it is.
            graphs: Replay captured graphs, where the device can.

        Raises:
            OutOfMemory: The device has no room.
            ArtifactError: A graph that draws tokens cannot be loaded.
        """
        manifest = artifact.manifest
        self._artifact = artifact
        self.name = device.name
        self.weight_bytes = artifact.weight_bytes
        self._device = device
        self._session = session
        self._arena = KvArena(
            plan.geometry,
            plan.slots,
            plan.capacity,
            plan.blocks,
            chunk=plan.chunk,
            device=device,
            snapshots=plan.snapshots or 0,
        )
        self.slots, self.capacity, self.blocks = plan.slots, plan.capacity, plan.blocks
        self.snapshots = plan.snapshots
        self.cache_bytes = self._arena.nbytes
        self._manifest = manifest
        self._cache = plan.geometry
        inputs = {put.name for put in session.get_inputs()}
        self._shares_slots = "slots" in inputs
        self._takes_positions = "position_ids" in inputs
        # What a guess has made of a state cannot be taken back.
        can_draft = self._shares_slots and plan.geometry.state is None
        self.most_drafted = MOST_DRAFTED if can_draft else 0
        most_rows = plan.slots + self.most_drafted
        self._logits = device.zeros((most_rows, manifest.shapes.vocab), "float32")
        self._on_gpu = device.name != "cpu"
        self._captures = self._on_gpu and graphs
        self._prompt = device.stage(step_layout(1, max(plan.chunk, BLOCK)))
        self._buckets = buckets(plan.slots) if self._on_gpu else [1]
        self._sampler: DeviceSampler | None = None
        if self._on_gpu:
            greedy = open_session(artifact.file("greedy"), device)
            sampler = open_session(artifact.file("sampler"), device)
            self._sampler = DeviceSampler(greedy, sampler, self._logits, device)
        self._prepare()

    @property
    def captures(self) -> bool:
        """Whether steps that decode are replayed from captured graphs."""
        return self._captures

    @property
    def cache_used(self) -> int:
        """Bytes of the cache that have been in use at most; all of them on a GPU."""
        return self.cache_bytes if self._on_gpu else self._arena.used

    def held(self) -> int:
        """Return the bytes of the device's memory that the process holds."""
        return self._device.held()

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step; see :class:`~rbee_runtime.backend.backend.Backend`."""
        self._run(step)
        logits = self._logits[: len(step.rows) + step.guesses]
        if isinstance(logits, np.ndarray):
            return logits
        values = np.empty(logits.shape, np.float32)
        self._device.read(logits, values)
        return values

    def advance(self, step: Step, samplers: Sequence[RowSampler] | None) -> list[int | None]:
        """Run one step and draw; see :class:`~rbee_runtime.backend.backend.Backend`."""
        bound = self._run(step)
        if not samplers:
            # What was staged may be overwritten once the device has taken it.
            self._device.finish()
            return []
        if self._sampler is not None:
            return self._sampler.draw(step.slot, samplers, bound)
        logits = self._logits[: len(step.rows)]
        assert isinstance(logits, np.ndarray)
        return sample(logits, samplers)

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        self._arena.transfer(transfer)

    def warm_up(self) -> None:
        """Run a token of a prompt and one that decodes; on a GPU, capture all there is to replay.

        See :class:`~rbee_runtime.backend.backend.Backend`: the provider keeps captured graphs for
        the thread that captured them. Where capturing fails, steps will run uncaptured.
        """
        if self._on_gpu and self._manifest.precision in _IN_BLOCKS:
            self._try_fused_products()
        try:
            self._run_each()
        except RuntimeFault as error:
            if not (self._captures and isinstance(self._device, CudaDevice)):
                raise
            # A device that has failed for good says so here, or at the next step.
            self._device.end_capture()
            _LOG.warning("Running without captured graphs, which is slower: %s", error)
            self._captures = False
            self._prepare()
            self._run_each()

    def _try_fused_products(self) -> None:
        """Run as many tokens as ONNX Runtime tells apart, and without fused products if it cannot.

        It chooses a kernel by their number, in powers of two, when it has packed the weights
        for them already; for some sizes of matrices it then finds none.
        """
        most = self._prompt.host["input_ids"].size
        widths = sorted({*(2 << n for n in range(most.bit_length() - 1)), most})
        refused = None
        try:
            for width in widths:
                if width <= self.capacity:
                    self._run(Step.of(0, 0, [0] * width))
            self._device.finish()
        except OutOfMemory:
            pass  # As it will be with such a prompt: that fails alone.
        except InferenceFailed as error:
            refused = str(error)
        if refused is not None:
            _LOG.warning("Unpacking weights before they are used, which is slower: %s", refused)
            # Nothing holds the session any more, not even the error: the GPU may not have room
            # for the weights twice.
            del self._session
            self._session = open_session(self._artifact.file("graph"), self._device, fused=False)

    def _prepare(self) -> None:
        """Have bindings made at the first step that needs them."""
        self._decode: dict[int, BoundStep] = {}
        if self._sampler is not None:
            for rows in self._buckets:
                self._sampler.prepare(rows, self._graph(rows))

    def _run_each(self) -> None:
        self._run(Step.of(0, 0, [0, 0]))
        if self._cache.state is not None:
            # What decodes goes on from position 1.
            self._run(Step.of(0, 0, [0]))
        # Nothing that the CPU does is kept from one number of rows to another.
        for rows in self._buckets:
            # With a past: operators have kernels of their own for steps that decode.
            self._run(Step(0, [Row(1, [0])] * rows))
            if self._sampler is not None:
                self._sampler.warm_up(rows)
        self._device.finish()

    def _run(self, step: Step) -> int:
        """Run a step and return how many rows it ran with."""
        for slot, row in enumerate(step.rows, step.slot):
            self._arena.fill(slot, row.past, len(row.tokens))
        rows, slots = step.rows, list(range(step.slot, step.slot + len(step.rows)))
        if step.guesses:
            slots, rows = map(list, zip(*step.apart(), strict=True))
        width = len(rows[0].tokens)
        tokens = len(rows) * width
        if step.slot == 0 and width == 1:
            bucket = bucket_of(len(rows), self._buckets) if self._on_gpu else len(rows)
            if bucket not in self._decode:
                self._decode[bucket] = self._bind_decode(bucket)
            bound = self._decode[bucket]
        else:
            bound = self._bind(step.slot, len(rows), width)
        for slot in range(len(rows), bound.rows):
            idle = Row(self._arena.next_position(slot), (0,))
            self._arena.make_room(slot, idle.past, width)
            rows, slots = [*rows, idle], [*slots, slot]
        starts: Sequence[int] = ()
        if self._cache.windowed_layers:
            starts = [self._arena.start(slot) for slot in slots]
        turns = [0] * len(rows)
        if self._manifest.long_rope is not None:
            turns = [first_turn(self._manifest, row) for row in rows]
        bound.set(rows, slots, starts, turns)
        bound.run(tokens)
        self._arena.settle(step.slot, step.rows)
        return bound.rows

    def _graph(self, rows: int) -> int:
        return rows if self._captures else GRAPH_OFF

    def _bind_decode(self, rows: int) -> BoundStep:
        staging = self._device.stage(step_layout(rows, 1))
        # A captured graph keeps the numbers it was captured with, that of positions among them:
        # the most there can be.
        totals = (self.capacity, self._arena.window_capacity) if self._captures else None
        bound = BoundStep(
            Binding(self._session, self._device, self._graph(rows)),
            self._device,
            staging,
            sizes=(rows, 1),
            totals=totals,
        )
        return self._bind_slots(bound, 0)

    def _bind(self, slot: int, rows: int, width: int) -> BoundStep:
        staging = self._prompt
        if rows > 1 or width > self._prompt.host["input_ids"].size:
            staging = self._device.stage(step_layout(rows, width))
        binding = Binding(self._session, self._device, GRAPH_OFF)
        bound = BoundStep(binding, self._device, staging, sizes=(rows, width))
        return self._bind_slots(bound, slot)

    def _bind_slots(self, bound: BoundStep, slot: int) -> BoundStep:
        """Bind what a step reads and writes besides its own inputs, its first row in ``slot``."""
        binding, cache = bound.binding, self._cache
        kinds = {"": cache.whole_layers, "window_": cache.windowed_layers}
        bound.bind([kind for kind, layers in kinds.items() if layers])
        if self._takes_positions:
            bound.bind_positions()
        binding.output("logits", self._logits[: bound.rows])
        first, count = slot, bound.rows
        if self._shares_slots:
            bound.bind_slots()
            first, count = 0, self.slots
        for layer in (*cache.whole_layers, *cache.windowed_layers):
            keys, values = self._arena.rows(layer, first, count)
            self._extend(binding, layer, {"key": keys, "value": values})
        for layer in cache.state.layers if cache.state else ():
            self._extend(binding, layer, self._arena.states(layer, slot, bound.rows))
        return bound

    def _extend(self, binding: Binding, layer: int, memory: Mapping[str, Array]) -> None:
        """Have what a layer keeps be written where it is read."""
        for kind, array in memory.items():
            binding.input(f"past_{kind}.{layer}", array)
            binding.output(f"present_{kind}.{layer}", array)
