"""Model directories made to do harm: a line, bounded memory, nothing run, nothing else read."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.makers import MakeLlama
from support.refusals import refused_or_exported
from support.tiny_llama import copy_of

from rbee_export import CheckpointError, ExportError, Options, digest, export, open_checkpoint
from rbee_export.cli import main
from rbee_runtime.units import human_size

Refused = Callable[[Path], str]
WEIGHTS = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


class Bomb:
    """Runs something when it is loaded as a pickle."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A sound directory, to damage."""
    return copy_of(tiny_llama, tmp_path)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """``refused(model)``: run the program on it and return the one line it says."""

    def run(directory: Path) -> str:
        out = tmp_path / "out"
        assert main(["--model", str(directory), "--out", str(out), "--exporter", "decoder"]) == 3
        output = capsys.readouterr()
        assert output.out == ""
        assert len(output.err.splitlines()) == 1, output.err
        assert len(output.err) < 600
        assert output.err.startswith("rbee-export: ")
        assert not out.exists()
        return output.err

    return run


# Pickles


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "consolidated.00.pth"])
def test_a_pickle_is_never_loaded(
    protocol: int, name: str, model: Path, refused: Refused, tmp_path: Path
) -> None:
    (model / WEIGHTS).unlink()
    mark = tmp_path / "it-ran"
    (model / name).write_bytes(pickle.dumps(Bomb(mark), protocol) + b"." * 100)
    message = refused(model)
    assert not mark.exists()
    if protocol or name != WEIGHTS:
        assert "a pickle, which can run code and is never loaded" in message
    else:  # which is text, and looks like nothing in particular
        assert "not a whole safetensors file" in message


def test_torch_s_archive_is_a_pickle_too(model: Path, refused: Refused, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    with zipfile.ZipFile(model / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
    assert "a pickle, which can run code and is never loaded" in refused(model)
    assert not mark.exists()


def test_pickles_beside_the_weights_are_left_alone(model: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    for name in ("pytorch_model.bin", "training_args.bin", "scheduler.pt"):
        (model / name).write_bytes(pickle.dumps(Bomb(mark)))
    checkpoint = open_checkpoint(model)
    export(checkpoint, tmp_path / "out", Options("fp32"), digest(checkpoint.files))
    assert not mark.exists()
    assert {file.name for file in checkpoint.files}.isdisjoint({"pytorch_model.bin"})


# Headers


def entry(shape: object = (2, 2), at: object = (0, 16), dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at}


def whole(header: object, data: int = 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


DAMAGED = "not a whole safetensors file"
HEADERS: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", DAMAGED),
    "seven bytes": (b"\x07" * 7, DAMAGED),
    "length of 2^63": (whole({"a": entry()}, length=2**63), DAMAGED),
    "length of 2^64 - 1": (whole({"a": entry()}, length=2**64 - 1), DAMAGED),
    "length one too many": (whole({"a": entry()}, 0, length=74), DAMAGED),
    "lists without end": (whole(b'{"a":' + b"[" * 1_000_000), DAMAGED),
    "objects without end": (whole(b'{"__metadata__":' + b'{"a":' * 1_000_000), DAMAGED),
    "a long number": (whole(b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000), DAMAGED),
    "a list": (whole([]), DAMAGED),
    "no UTF-8": (whole(b'{"\xff\xfe": 1}'), DAMAGED),
    "overlap": (whole({"a": entry(), "b": entry(at=(8, 24))}, 24), DAMAGED),
    "the same bytes twice": (whole({"a": entry(), "b": entry()}), DAMAGED),
    "a hole": (whole({"a": entry(), "b": entry(at=(32, 48))}, 48), DAMAGED),
    "beyond the file": (whole({"a": entry(at=(2**40, 2**40 + 16))}), DAMAGED),
    "backwards": (whole({"a": entry(at=(16, 0))}), DAMAGED),
    "before the file": (whole({"a": entry(at=(-16, 0))}), DAMAGED),
    "three offsets": (whole({"a": entry(at=(0, 8, 16))}), DAMAGED),
    "offsets in words": (whole({"a": entry(at="all of it")}), DAMAGED),
    "bytes that belong to nothing": (whole({"a": entry()}, 20), DAMAGED),
    "more values than bytes": (whole({"a": entry(shape=(3, 3))}), DAMAGED),
    "fewer values than bytes": (whole({"a": entry(shape=(1, 1))}), DAMAGED),
    "a product beyond 64 bits": (whole({"a": entry(shape=(2**33, 2**33))}), DAMAGED),
    "a product that wraps to 16": (whole({"a": entry(shape=(2**62 + 1, 4))}), DAMAGED),
    "a negative dimension": (whole({"a": entry(shape=(-2, -2))}), DAMAGED),
    "half a dimension": (whole({"a": entry(shape=(2.5, 2))}), DAMAGED),
    "a type of GGUF's": (whole({"a": entry(dtype="Q4_K")}), DAMAGED),
    "a type that is none": (whole({"a": entry(dtype=None)}), DAMAGED),
    "one name twice": (
        whole(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), 16),
        "tensor model.embed_tokens.weight is missing",
    ),
    "a name of many lines": (whole({"a\nb" * 100_000: entry(at=(0, 8))}), DAMAGED),
    "no tensors": (whole({}, 0), "tensor model.embed_tokens.weight is missing"),
    "only others": (whole({"a": entry()}), "tensor model.embed_tokens.weight is missing"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(case: str, model: Path, refused: Refused) -> None:
    content, problem = HEADERS[case]
    (model / WEIGHTS).write_bytes(content)
    assert problem in refused(model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda up: up.astype(np.int32), f"tensor {UP} has type I32; supported are F32, F16, BF16"),
        (lambda up: up > 0, f"tensor {UP} has type BOOL; supported are F32, F16, BF16"),
        (lambda up: up[:0].copy(), "layers.1.up has shape [0, 64]"),
        (lambda up: up.reshape(-1).copy(), "layers.1.up has shape [8192]"),
        (lambda up: up.reshape(*[1] * 30, 128, 64), "layers.1.up has shape of 32 dimensions"),
        (lambda up: up.T.copy(), "layers.1.up has shape [64, 128]"),
        (lambda up: up[0, 0], "layers.1.up has shape []"),
    ],
)
def test_tensors_that_are_not_what_they_should_be(
    change: Callable[[Any], Any], problem: str, model: Path, refused: Refused
) -> None:
    tensors = load_file(model / WEIGHTS)
    save_file({**tensors, UP: np.asarray(change(tensors[UP]))}, model / WEIGHTS)
    assert problem in refused(model)


def test_a_tensor_with_a_million_dimensions(model: Path, refused: Refused) -> None:
    name = "model.embed_tokens.weight"
    header = {name: entry(shape=[1] * 1_000_000, at=(0, 4))}
    (model / WEIGHTS).write_bytes(whole(header, 4))
    assert "embedding has shape of 1000000 dimensions" in refused(model)


# Directories


def test_a_tensor_in_two_shards(make_llama: MakeLlama, tmp_path: Path, refused: Refused) -> None:
    model = copy_of(make_llama(max_shard_size="100KB"), tmp_path)
    first, second = sorted(model.glob("*.safetensors"))[:2]
    name = min(load_file(first))
    save_file({**load_file(second), name: load_file(first)[name]}, second)
    assert f"{second}: tensor '{name}' is in {first.name} as well" in refused(model)


def test_the_same_weights_under_other_names_are_not_read(model: Path) -> None:
    (model / "consolidated.safetensors").write_bytes(b"not even weights")
    assert open_checkpoint(model).tensor("final_norm").shape == (64,)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../outside.safetensors", "names '../outside.safetensors', which is no file of the dir"),
        ("/etc/passwd", "names '/etc/passwd', which is no file of the directory"),
        ("..", "names '..'; only .safetensors are ever loaded"),
        ("", "names ''; only .safetensors are ever loaded"),
        ("a\\b.safetensors", "which is no file of the directory"),
        ("sub/x.safetensors", "which is no file of the directory"),
        ("pytorch_model.bin", "names 'pytorch_model.bin'; only .safetensors are ever loaded"),
        ("x\n" * 100_000 + ".safetensors", "which is no file of the directory"),
        ("x" * 100_000 + ".safetensors", "which is no file of the directory"),
        (None, "names None, which is no file of the directory"),
        ([], "names [], which is no file of the directory"),
        ("gone.safetensors", "gone.safetensors: missing, but named by model.safetensors.index"),
    ],
)
def test_an_index_that_names(name: object, problem: str, model: Path, refused: Refused) -> None:
    index = {"weight_map": {UP: WEIGHTS, "x": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert problem in refused(model)


FILES = [WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_somewhere_else(name: str, model: Path, tmp_path: Path, refused: Refused) -> None:
    secret = tmp_path / "secret"
    if (model / name).exists():
        (model / name).rename(secret)
    else:
        secret.write_text("{{ 'a secret' }}")
    (model / name).symlink_to(secret)
    assert f"{model / name}: links to a file outside its directory" in refused(model)


def test_links_within_the_directory(model: Path) -> None:
    (model / WEIGHTS).rename(model / "weights")
    (model / WEIGHTS).symlink_to("weights")
    assert open_checkpoint(model).tensor("final_norm").shape == (64,)


def test_links_of_a_hub_s_cache(model: Path, tmp_path: Path, refused: Refused) -> None:
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    checkpoint = open_checkpoint(snapshot)
    export(checkpoint, tmp_path / "out", Options("fp32"), digest(checkpoint.files))
    assert checkpoint.name == "0123"
    shutil.rmtree(tmp_path / "out")
    assert f"{repository}: a hub's cache of a model; give {snapshot}" in refused(repository)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file(name: str, model: Path, refused: Refused) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)  # whoever opened it would wait for ever
    assert f"{model / name}: not a regular file" in refused(model)
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")  # whoever read it would never come to an end
    assert f"{model / name}: links to a file outside" in refused(model)


# Memory

MEMORY = """
    import sys
    from pathlib import Path
    from rbee_export.cli import main

    def peak():
        # The system's ru_maxrss begins at what the parent held.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    main(["--model", sys.argv[1], "--out", sys.argv[1] + "-out", "--no-verify"])
    before = peak()
    for model in sys.argv[2:]:
        code = main(["--model", model, "--out", model + "-out", "--exporter", "decoder"])
        print(code, peak() - before, flush=True)
"""


def huge(model: Path) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """Yield what takes little room on the disk and would take gigabytes read."""
    names = b",".join(
        b'"%032d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(300_000)
    )
    tensors = b"{" + names + b"}"
    yield "tensors", lambda m: (m / WEIGHTS).write_bytes(whole(tensors, 0)), "its header takes"

    def sparse(directory: Path) -> None:
        with (directory / WEIGHTS).open("r+b") as file:
            file.write(struct.pack("<Q", 2**40))
            file.truncate(2**41)

    yield "header", sparse, "its header takes 1099.51 GB, as"
    lists = b"[" + b"[]," * 12_000_000 + b"[]]"

    def settings_file(name: str) -> tuple[str, Callable[[Path], object], str]:
        told = f"{name}: has {human_size(len(lists))}, far"
        return name, lambda m: (m / name).write_bytes(lists), told

    yield settings_file("config.json")
    yield settings_file("tokenizer_config.json")
    yield settings_file("model.safetensors.index.json")

    def zeros(directory: Path) -> None:
        (directory / "tokenizer.json").write_bytes(b"")
        os.truncate(directory / "tokenizer.json", 2**40)

    yield "tokenizer", zeros, "tokenizer.json: has 1099.51 GB, far"

    def wide(directory: Path) -> None:
        """Make the embedding two terabytes of nothing, and say so everywhere."""
        sizes = {"vocab_size": 2**33}
        config = json.loads((directory / "config.json").read_text()) | sizes
        (directory / "config.json").write_text(json.dumps(config))
        total = 2**33 * 64 * 4
        header = {"model.embed_tokens.weight": entry(shape=(2**33, 64), at=(0, total))}
        (directory / WEIGHTS).write_bytes(whole(header, 0))
        os.truncate(directory / WEIGHTS, (directory / WEIGHTS).stat().st_size + total)

    yield "embedding", wide, "out of memory"


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def test_memory_is_bounded(tiny_llama: Path, tmp_path: Path) -> None:
    expected, models = [], []
    for name, damage, problem in huge(tiny_llama):
        (tmp_path / name).mkdir()
        models.append(copy_of(tiny_llama, tmp_path / name))
        damage(models[-1])
        expected.append(problem)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tiny_llama, *models],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
        cwd=tmp_path,
        preexec_fn=limit,
    )
    results = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    said = [line for line in done.stderr.splitlines() if line.startswith("rbee-export:")]
    assert [code for code, _ in results] == [3] * len(models)
    assert len(said) == len(models)
    assert "Traceback" not in done.stderr
    for line, problem in zip(said, expected, strict=True):
        assert problem in line
    assert max(grown for _, grown in results) < 200


# Anything else

QUIET = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(
    name=st.sampled_from([WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"]),
    cut=st.tuples(st.floats(0, 1), st.integers(0, 20)),
    data=st.binary(max_size=12) | st.sampled_from([b"null", b"-1", b"1e999", b"[[[", b'"', b"{}"]),
)
@example(name=WEIGHTS, cut=(0.0, 8), data=b"\xff" * 8)
@QUIET
def test_any_bytes_changed_anywhere(
    name: str, cut: tuple[float, int], data: bytes, tiny_llama: Path, tmp_path: Path
) -> None:
    model = tmp_path / tiny_llama.name
    if not model.exists():
        copy_of(tiny_llama, tmp_path)
    content = (tiny_llama / name).read_bytes()
    # Of the weights, what lies beyond the header can hold anything anyway.
    start = int(cut[0] * min(len(content), 3000))
    (model / name).write_bytes(content[:start] + data + content[start + cut[1] :])
    try:
        refused_or_exported(model, tmp_path / "out")
    finally:
        (model / name).write_bytes(content)


HEADER_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
SMALL = st.integers(0, 4)
ENTRIES = HEADER_VALUES | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F8_E4M3", "U64", "f32", ""]),
        "shape": st.lists(SMALL | st.sampled_from([2**32, 2**63, 2**64]), max_size=4),
        "data_offsets": st.tuples(SMALL, SMALL) | st.sampled_from([(0, 16), (0, 8), (16, 0)]),
    }
)


@given(
    header=st.dictionaries(
        st.sampled_from(["model.norm.weight", "model.embed_tokens.weight", "__metadata__", "x\ny"]),
        ENTRIES,
        max_size=4,
    ),
    data=st.integers(0, 40),
)
@QUIET
def test_any_header(header: dict[str, Any], data: int, tiny_llama: Path, tmp_path: Path) -> None:
    model = tmp_path / tiny_llama.name
    if not model.exists():
        copy_of(tiny_llama, tmp_path)
    (model / WEIGHTS).write_bytes(whole(header, data))
    with pytest.raises((CheckpointError, ExportError)) as caught:
        export(open_checkpoint(model), tmp_path / "out", Options("fp32"), "0" * 64)
    assert "\n" not in str(caught.value)
