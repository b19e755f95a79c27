"""Drawing tokens where the logits are: only token ids come back, and scalars go there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime.backend.session import GRAPH_OFF, Binding
from rbee_runtime.device import Array, Device, Layout, Staging
from rbee_runtime.sampling import RowSampler, inverse_temperature

_SCALARS: Mapping[str, str] = MappingProxyType(
    {
        "previous": "int64",
        "repetition": "float32",
        "frequency": "float32",
        "presence": "float32",
        "inverse": "float32",
        "top_k": "int64",
        "top_p": "float64",
        "min_p": "float32",
        "uniform": "float64",
    }
)
"""What the sampler's graph takes for each row, and in which type."""


class DeviceSampler:
    """Runs an artifact's sampling graphs on the device, over the logits the model left there.

    What a row's penalties and bias need of the past lies on the device, a row for each slot: how
    often each token was drawn, which the graph counts on by itself, the tokens of the prompt, and
    the bias. A row is written from the host when a request that needs it comes to a slot.
    """

    def __init__(
        self,
        greedy: ort.InferenceSession,
        sampler: ort.InferenceSession,
        logits: Array,
        device: Device,
    ) -> None:
        """Take memory for every slot.

        Args:
            greedy: Session of the greedy graph.
            sampler: Session of the sampling graph.
            logits: Where the model leaves them, ``float32[slots, vocab]``.
            device: Where that is.

        Raises:
            OutOfMemory: The device does not have it.
        """
        self._greedy, self._sampler = greedy, sampler
        self._device = device
        self._logits = logits
        slots, vocab = logits.shape
        self._vocab = vocab
        self._tokens = device.zeros((slots,), "int64")
        self._past = _Past(
            device.zeros((slots, vocab), "float32"),
            device.zeros((slots, vocab), "bool"),
            device.zeros((slots, vocab), "float32"),
        )
        self._holders: list[_Holder] = [_Holder() for _ in range(slots)]
        self._prompt = device.stage(_layout(1))
        self._greedy_rows: dict[int, Binding] = {}
        self._sampler_rows: dict[int, tuple[Binding, Staging]] = {}

    def prepare(self, rows: int, graph: int) -> None:
        """Bind the first ``rows`` slots for good, to be run as the graph of that number."""
        self._greedy_rows[rows] = self._bind_greedy(rows, graph)
        staging = self._device.stage(_layout(rows))
        self._sampler_rows[rows] = (self._bind_sampler(0, rows, staging, graph), staging)

    def warm_up(self, rows: int) -> None:
        """Run both graphs over so many rows, which captures them."""
        self._greedy_rows[rows].run(rows)
        binding, staging = self._sampler_rows[rows]
        _fill(staging, [None] * rows, self._vocab)
        self._device.upload(staging)
        binding.run(rows)
        self._device.finish()

    def draw(self, slot: int, samplers: Sequence[RowSampler], bound: int) -> list[int | None]:
        """Draw a token for each row of the step that has been run, and wait for them.

        Args:
            slot: The first row's.
            samplers: One for each row.
            bound: Rows that the step ran with, those beside the samplers' without a meaning; if
                they decode from slot 0 on, one of those that were prepared.

        Returns:
            A token id a row, recorded in its sampler; ``None`` where a row has no largest logit.

        Raises:
            OutOfMemory: The device could not provide what sampling needs.
            DeviceLost: It has failed.
            InferenceFailed: The provider failed otherwise.
        """
        prepared = slot == 0 and bound in self._greedy_rows
        if all(sampler.is_plainly_greedy for sampler in samplers):
            binding = self._greedy_rows[bound] if prepared else self._bind_greedy(bound, GRAPH_OFF)
        else:
            counted = [self._hold(slot + n, sampler) for n, sampler in enumerate(samplers)]
            if prepared:
                binding, staging = self._sampler_rows[bound]
            else:
                staging = self._prompt if bound == 1 else self._device.stage(_layout(bound))
                binding = self._bind_sampler(slot, bound, staging, GRAPH_OFF)
            _fill(staging, [*samplers, *[None] * (bound - len(samplers))], self._vocab)
            staging.host["previous"][: len(samplers)] = counted
            self._device.upload(staging)
        binding.run(bound)
        tokens = np.empty(bound, np.int64)
        self._device.read(self._tokens[:bound], tokens)
        drawn: list[int | None] = [
            None if token < 0 else token for token in tokens[: len(samplers)].tolist()
        ]
        for row, (token, sampler) in enumerate(zip(drawn, samplers, strict=True)):
            if token is not None:
                if sampler.asks_logprobs:
                    sampler.measure(self._read(row))
                sampler.record(token)
        return drawn

    def _read(self, row: int) -> NDArray[np.float32]:
        """Bring a row of logits, which drawing leaves as they were, to the host."""
        logits = np.empty(self._vocab, np.float32)
        self._device.read(self._logits[row], logits)
        return logits

    def _hold(self, slot: int, sampler: RowSampler) -> int:
        """See that a slot's rows are a request's; return the token they have not counted, or -1."""
        holder, device, past = self._holders[slot], self._device, self._past
        if holder.sampler is not sampler or holder.allowed is not sampler.allowed:
            bias = sampler.bias_row(self._vocab)
            if bias is not None:
                device.write(past.bias[slot], bias)
            elif holder.is_biased:
                device.write(past.bias[slot], np.zeros(self._vocab, np.float32))
            holder.allowed, holder.is_biased = sampler.allowed, bias is not None
        if not sampler.counts_tokens:
            holder.sampler = sampler
            return -1
        if holder.sampler is not sampler or holder.counted != sampler.drawn - 1:
            counts, seen = sampler.past_rows(self._vocab)
            device.write(past.counts[slot], counts)
            device.write(past.seen[slot], seen)
            last = -1
        else:
            last = sampler.last
        holder.sampler, holder.counted = sampler, sampler.drawn
        return last

    def _bind_greedy(self, rows: int, graph: int) -> Binding:
        binding = Binding(self._greedy, self._device, graph)
        binding.input("logits", self._logits[:rows])
        binding.output("token", self._tokens[:rows])
        return binding

    def _bind_sampler(self, slot: int, rows: int, staging: Staging, graph: int) -> Binding:
        binding, past = Binding(self._sampler, self._device, graph), self._past
        own = slice(slot, slot + rows)
        binding.input("logits", self._logits[:rows])
        binding.input("counts", past.counts[own])
        binding.input("seen", past.seen[own])
        binding.input("bias", past.bias[own])
        for name in _SCALARS:
            binding.input(name, staging.device[name])
        binding.output("token", self._tokens[:rows])
        binding.output("new_counts", past.counts[own])
        return binding


@dataclass(frozen=True, slots=True)
class _Past:
    """What the sampling graph needs of the past, a row for each slot.

    Attributes:
        counts: ``float32[slots, vocab]``, how often each token was drawn.
        seen: ``bool[slots, vocab]``, the prompt's tokens.
        bias: ``float32[slots, vocab]``, to add to the logits.
    """

    counts: Array
    seen: Array
    bias: Array


@dataclass(slots=True)
class _Holder:
    """Whose the rows of a slot are.

    Attributes:
        sampler: The request's.
        allowed: Its mask as far as it has been written.
        counted: Tokens it had drawn when they were last brought up to date.
        is_biased: Whether the bias is other than zero.
    """

    sampler: RowSampler | None = None
    allowed: NDArray[np.bool_] | None = None
    counted: int = 0
    is_biased: bool = False


def _layout(rows: int) -> Layout:
    return {name: ((rows,), dtype) for name, dtype in _SCALARS.items()}


def _fill(staging: Staging, samplers: Sequence[RowSampler | None], vocab: int) -> None:
    """Write the scalars of each row; ``None`` is one without a meaning."""
    host = staging.host
    for row, sampler in enumerate(samplers):
        host["previous"][row] = -1
        if sampler is None:
            host["repetition"][row] = host["inverse"][row] = host["top_p"][row] = 1.0
            host["frequency"][row] = host["presence"][row] = host["min_p"][row] = 0.0
            host["top_k"][row], host["uniform"][row] = 1, 0.0
            continue
        params = sampler.params
        host["repetition"][row] = params.repetition_penalty
        host["frequency"][row] = params.frequency_penalty
        host["presence"][row] = params.presence_penalty
        if params.temperature == 0.0:
            host["inverse"][row], host["top_k"][row], host["uniform"][row] = 1.0, 1, 0.0
            host["top_p"][row], host["min_p"][row] = 1.0, 0.0
            continue
        host["inverse"][row] = inverse_temperature(params.temperature)
        host["top_k"][row] = min(params.top_k or vocab, vocab)
        host["top_p"][row], host["min_p"][row] = params.top_p, params.min_p
        host["uniform"][row] = sampler.uniform()
