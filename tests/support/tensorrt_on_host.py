"""Everything a worker needs to run engines, with the host's memory and processor behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.backend import opening, tensorrt_opening
from rbee_runtime.backend.session import open_session

from .cuda_on_host import CudaOnHost
from .fake_tensorrt import FakeTensorRt
from .queued_cuda import QueuedCuda


class QueuedSession:
    """A session that runs when its turn on the stream comes."""

    def __init__(self, session: Any, cuda: QueuedCuda) -> None:
        self._session, self._cuda = session, cuda

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        assert not self._cuda.records
        self._cuda.enqueue(lambda: self._session.run_with_iobinding(binding, options))


def install(
    monkeypatch: pytest.MonkeyPatch, artifact: Path, *, size: int = 1 << 28, **options: Any
) -> FakeTensorRt:
    """Put a GPU of SM89 and the artifact's TensorRT in place.

    Args:
        monkeypatch: The test's.
        artifact: Whose engine there will be.
        size: Bytes of the GPU's memory.
        options: Of :class:`FakeTensorRt`.
    """
    cuda = QueuedCuda(size=size)
    monkeypatch.setattr(opening, "has_driver", lambda: True)
    monkeypatch.setattr(opening, "open_cuda", lambda index: CudaOnHost(cuda, index))

    def open_queued(graph: Path, device: Any, **how: Any) -> Any:
        return QueuedSession(open_session(graph, device, **how), cuda)

    monkeypatch.setattr(tensorrt_opening, "open_session", open_queued)
    fake = FakeTensorRt(cuda, artifact, **options)
    monkeypatch.setitem(sys.modules, fake.entry.library, fake)
    return fake
