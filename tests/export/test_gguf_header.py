"""Headers of GGUF files: what they say, and what they may not."""

from __future__ import annotations

import resource
import struct
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as ValueType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rbee_export.checkpoint.gguf_header import GgufHeader, read_header
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel


def assert_read_alike(ours: GgufHeader, path: Path) -> None:
    """Compare a header with what the gguf package's own reader makes of the file."""
    theirs = gguf.GGUFReader(path)
    fields = {
        name: field.contents()
        for name, field in theirs.fields.items()
        if not name.startswith("GGUF.")
    }
    assert list(ours.fields) == list(fields)
    for key, value in fields.items():
        assert ours.fields[key] == value
        assert type(ours.fields[key]) is type(value)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        read = ours.tensors[tensor.name]
        assert read.shape == tuple(tensor.shape.tolist())
        assert read.tensor_type == tensor.tensor_type
        assert read.data.dtype == tensor.data.dtype
        np.testing.assert_array_equal(read.data, tensor.data)


@pytest.mark.usefixtures("library_reads_once")
def test_the_real_file_is_read_as_the_library_reads_it(sample_gguf: Path) -> None:
    assert_read_alike(read_header(sample_gguf), sample_gguf)


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_every_kind_of_value_is_read_as_the_library_reads_it(
    alignment: int, tmp_path: Path
) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for bits in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits}")(f"uint{bits}", 2**bits - 1)
        getattr(writer, f"add_int{bits}")(f"int{bits}", -(2 ** (bits - 1)))
    writer.add_float32("float32", 0.1)
    writer.add_float64("float64", -1e300)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "naïve 🙂\n")
    writer.add_string("no text", "")
    writer.add_array("words", ["x", "", "é", "🙂"])
    writer.add_array("whole", [1, -2, 2**31 - 1])
    writer.add_array("real", [0.5, -1e-30])
    writer.add_array("flags", [True, False])
    draw = np.random.default_rng(0)
    for rank, shape in enumerate([(3,), (5, 7), (2, 3, 4), (2, 1, 3, 2)]):
        writer.add_tensor(f"f32.{rank}", draw.standard_normal(shape, np.float32))
        writer.add_tensor(f"f16.{rank}", draw.standard_normal(shape).astype(np.float16))
    for kind in (Kind.Q4_1, Kind.Q6_K, Kind.BF16):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = draw.integers(0, 256, (3, 512 // block * size), np.uint8)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
    finish(writer)
    assert_read_alike(read_header(path), path)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_large_vocabulary_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    tokens = [f"token {number:x}" for number in range(100_000)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([f"t {token}" for token in tokens])
    finish(writer)
    started = time.process_time()
    fields = read_header(path).fields
    assert time.process_time() - started < 1.5  # the library takes seconds
    assert fields["tokenizer.ggml.tokens"] == tokens


# Files made by hand


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


def info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    head = text(name) + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


ARCHITECTURE = pair("general.architecture", ValueType.STRING, text("llama"))


def content(
    pairs: Sequence[bytes] = (ARCHITECTURE,),
    infos: Sequence[bytes] = (),
    data: int = 256,
    *,
    version: int = 3,
    tensors: int | None = None,
    keys: int | None = None,
) -> bytes:
    """Return a file with ``data`` zero bytes of tensors; counts are right unless given."""
    head = struct.pack(
        "<4sIQQ",
        b"GGUF",
        version,
        len(infos) if tensors is None else tensors,
        len(pairs) if keys is None else keys,
    )
    head += b"".join([*pairs, *infos])
    return head + b"\0" * (-len(head) % 32 + data)


def refusal(path: Path, data: bytes) -> str:
    """Return the one line said of a file; reading it must take next to no memory or time."""
    path.write_bytes(data)
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ExportError) as caught:
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 1
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < 400 + len(str(path))
    expected = UnsupportedModel if "supported" in said or "known here" in said else CheckpointError
    assert type(caught.value) is expected
    return said


A, B = info("a", [16, 2], Kind.F32, 0), info("b", [32], Kind.F32, 128)


def test_a_file_made_by_hand_is_sound(tmp_path: Path) -> None:
    for version in (2, 3):
        path = tmp_path / "model.gguf"
        path.write_bytes(content(infos=[A, B], version=version))
        header = read_header(path)
        assert header.fields == {"general.architecture": "llama"}
        assert header.tensors["a"].shape == (16, 2)
        assert header.tensors["a"].data.shape == (2, 16)
        assert_read_alike(header, path)


def long_array(kind: int, count: int, values: bytes = b"") -> bytes:
    return content([pair("k", ValueType.ARRAY, array(kind, count, values))])


Q4 = Kind.Q4_0
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"# Model card\n" * 9, "it begins with b'# Mo'"),
    "magic alone": (b"GGUF", "it ends within its header, at byte 4"),
    "no counts": (content()[:20], "it ends within its header"),
    "version 1": (content(version=1), "GGUF version 1 is not supported; 2 and 3 are"),
    "version 0": (content(version=0), "GGUF version 0 is not supported"),
    "a future version": (content(version=4), "GGUF version 4 is not supported"),
    "big-endian": (content(version=3 << 24), "a big-endian GGUF file is not supported"),
    "2^60 tensors": (content(tensors=1 << 60), "it claims 1152921504606846976 tensors"),
    "2^64 - 1 tensors": (content(tensors=2**64 - 1), "tensors, more than its"),
    "2^60 keys": (content(keys=1 << 60), "it claims 1152921504606846976 metadata keys"),
    "a key too many": (content(data=0, keys=2, infos=[A]), "tensor"),
    "a long key": (content([struct.pack("<Q", 1 << 62)]), "it ends within metadata key 0"),
    "a key that is not text": (
        content([pair(b"\xff", ValueType.BOOL, b"\1")]),
        "metadata key 0 is not UTF-8",
    ),
    "a key twice": (
        content([ARCHITECTURE] * 2),
        "metadata key 'general.architecture' comes twice",
    ),
    "a key of two lines": (
        content([pair("a\nb", ValueType.BOOL, b"\1")] * 2),
        r"metadata key 'a\nb' comes twice",
    ),
    "a key of a megabyte": (
        content([pair("a" * (1 << 17), ValueType.BOOL, b"\1")] * 2),
        f"metadata key '{'a' * 79}… comes twice",
    ),
    "a long text": (
        content([pair("k", ValueType.STRING, struct.pack("<Q", 2**64 - 1))]),
        "it ends within metadata key 'k'",
    ),
    "a value that is not text": (
        content([pair("k", ValueType.STRING, text(b"a\xc3"))]),
        "metadata key 'k' is not UTF-8",
    ),
    "a value of no type": (
        content([pair("k", 13, b"\1")]),
        "metadata key 'k' has a value of no known type (13)",
    ),
    "an array of no type": (long_array(99, 1, b"\1"), "a value of no known type (99)"),
    "a long array of bytes": (
        long_array(ValueType.UINT8, 1 << 60),
        "it claims 1152921504606846976 elements of metadata key 'k'",
    ),
    "a long array of numbers": (long_array(ValueType.FLOAT64, 2**64 - 1), "elements of metadata"),
    "a long array of texts": (
        long_array(ValueType.STRING, 1 << 60),
        "elements of metadata key 'k'",
    ),
    "texts cut off": (
        long_array(ValueType.STRING, 30, text("word") * 2 + struct.pack("<Q", 1 << 40)),
        "it ends within metadata key 'k'",
    ),
    "the last text cut off": (
        long_array(ValueType.STRING, 1, struct.pack("<Q", 1 << 63)),
        "it ends within metadata key 'k'",
    ),
    "texts that are not": (
        long_array(ValueType.STRING, 2, text("word") + text(b"\xff")),
        "metadata key 'k' is not UTF-8",
    ),
    "nested arrays": (
        content(
            [pair("k", ValueType.ARRAY, array(ValueType.ARRAY, 1, b"") * 1000)],
        ),
        "metadata key 'k': arrays of arrays are not supported",
    ),
    "no alignment": (
        content([pair("general.alignment", ValueType.UINT32, struct.pack("<I", 0))]),
        "general.alignment is not a power of two",
    ),
    "an odd alignment": (
        content([pair("general.alignment", ValueType.UINT32, struct.pack("<I", 24))]),
        "general.alignment is not a power of two",
    ),
    "an alignment in words": (
        content([pair("general.alignment", ValueType.STRING, text("32"))]),
        "general.alignment is not a power of two",
    ),
    "an alignment beyond the file": (
        content(
            [pair("general.alignment", ValueType.UINT64, struct.pack("<Q", 1 << 63))], infos=[A]
        ),
        "tensor 'a' ends at byte 9223372036854775936",
    ),
    "a tensor twice": (content(infos=[A, A]), "tensor 'a' comes twice"),
    "a tensor of no dimensions": (content(infos=[info("a", [], 0, 0)]), "tensor 'a' has 0 dim"),
    "a tensor of five dimensions": (
        content(infos=[info("a", [1] * 5, 0, 0)]),
        "tensor 'a' has 5 dimensions",
    ),
    "a tensor of 2^32 dimensions": (
        content(infos=[text("a") + struct.pack("<I", 2**32 - 1)]),
        "tensor 'a' has 4294967295 dimensions",
    ),
    "an empty tensor": (content(infos=[info("a", [0, 2], 0, 0)]), "has dimensions [0, 2]"),
    "a tensor that overflows": (
        content(infos=[info("a", [1 << 32, 1 << 32, 4], Kind.F32, 0)]),
        "tensor 'a' ends at byte",
    ),
    "dimensions that overflow": (
        content(infos=[info("a", [2**64 - 32] * 4, Q4, 0)]),
        "tensor 'a' ends at byte",
    ),
    "half a block": (
        content(infos=[info("a", [48, 2], Q4, 0)]),
        "of type Q4_0 has dimensions [48, 2], of which the first must be a multiple of 32",
    ),
    "a tensor type of tomorrow": (
        content(infos=[info("a", [32], 999, 0)]),
        "tensor 'a' has elements of type 999, which is not known here",
    ),
    "a tensor type taken away": (content(infos=[info("a", [32], 4, 0)]), "elements of type 4"),
    "an offset beyond the file": (
        content(infos=[info("a", [16], Kind.F32, 1 << 60)]),
        "tensor 'a' ends at byte",
    ),
    "an offset that wraps around": (
        content(infos=[info("a", [16], Kind.F32, 2**64 - 32)]),
        "tensor 'a' ends at byte",
    ),
    "an offset between": (
        content(infos=[info("a", [16], Kind.F32, 4)]),
        "tensor 'a' is not at a multiple of 32 bytes",
    ),
    "tensors that overlap": (
        content(infos=[B, info("c", [16], Kind.F32, 96)]),
        "tensors 'c' and 'b' overlap",
    ),
    "a tensor within another": (
        content(infos=[info("c", [8], Kind.F32, 32), A]),
        "tensors 'a' and 'c' overlap",
    ),
    "no data": (content(infos=[A], data=0), "tensor 'a' ends at byte 256, the file at 128"),
    "data cut off": (content(infos=[A], data=127), "tensor 'a' ends at byte 256, the file at 255"),
    "a name of control characters": (
        content(infos=[info("\x1b[2J", [3], Q4, 0)]),
        r"tensor '\x1b[2J' of type Q4_0",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE[case]
    assert message in refusal(tmp_path / "model.gguf", data)


def test_a_header_of_numbers_alone_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    count = (1 << 23) + 1
    path.write_bytes(long_array(ValueType.UINT8, count, b"\0" * count))
    with pytest.raises(CheckpointError, match="its metadata have more than 8388608 elements"):
        read_header(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.gguf"):
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            read_header(path)
        assert str(caught.value).startswith(f"{path}: ")


# Fuzzing


@pytest.fixture(scope="module")
def sound() -> bytes:
    pairs = [
        ARCHITECTURE,
        pair("general.alignment", ValueType.UINT32, struct.pack("<I", 32)),
        pair("n", ValueType.UINT64, struct.pack("<Q", 7)),
        pair(
            "words", ValueType.ARRAY, array(ValueType.STRING, 3, text("a") + text("é") + text(""))
        ),
        pair("reals", ValueType.ARRAY, array(ValueType.FLOAT32, 2, struct.pack("<2f", 0.5, 2))),
    ]
    return content(pairs, [A, B, info("c", [32, 4], Q4, 256)], data=352)


Edit = Callable[[bytes], bytes]
SPOT = st.floats(0, 1)
INTERESTING = st.sampled_from(
    [0, 1, 8, 9, 12, 13, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
)


def spliced(spot: float, removed: int, inserted: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(spot * len(data))
        return data[:at] + inserted + data[at + removed :]

    return edit


def flipped(spot: float, bit: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(spot * max(len(data) - 1, 0))
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :] if data else data

    return edit


EDIT: st.SearchStrategy[Edit] = st.one_of(
    st.builds(flipped, SPOT, st.integers(0, 7)),
    st.builds(spliced, SPOT, st.just(1 << 20), st.just(b"")),
    st.builds(spliced, SPOT, st.integers(0, 9), st.binary(max_size=9)),
    st.builds(lambda spot, value: spliced(spot, 8, struct.pack("<Q", value)), SPOT, INTERESTING),
    st.builds(
        lambda spot, value: spliced(spot, 4, struct.pack("<I", value & 0xFFFFFFFF)),
        SPOT,
        INTERESTING,
    ),
)


@given(edits=st.lists(EDIT, min_size=1, max_size=4))
@example(edits=[])
@settings(
    max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_file_is_sound_or_refused(
    edits: list[Edit], sound: bytes, tmp_path: Path
) -> None:
    data = sound
    for edit in edits:
        data = edit(data)
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = None
    try:
        for tensor in read_header(path).tensors.values():
            assert len(tensor.data.tobytes()) == tensor.data.nbytes > 0
    except (CheckpointError, UnsupportedModel) as error:
        said = str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert said is None or (said.startswith(f"{path}: ") and said.isprintable())


def test_the_file_to_be_changed_is_sound(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sound)
    header = read_header(path)
    fields: dict[str, Any] = dict(header.fields)
    assert fields["words"] == ["a", "é", ""]
    assert list(header.tensors) == ["a", "b", "c"]
    assert_read_alike(header, path)
