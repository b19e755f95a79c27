"""Models cut into several GGUF files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.makers import MakeGguf

from rbee_export import digest, open_checkpoint
from rbee_export.checkpoint.gguf_file import GgufCheckpoint
from rbee_export.errors import CheckpointError

PARTS = 4


def cut(source: Path, directory: Path, *, first_empty: bool = False) -> list[Path]:
    """Write a file again in parts, with the gguf package's own writer."""
    reader = gguf.GGUFReader(source)
    whole = len(reader.tensors)
    writer = gguf.GGUFWriter(
        directory / "tiny.gguf",
        "llama",
        split_max_tensors=-(-whole // (PARTS - first_empty)),
        small_first_shard=first_empty,
    )
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind, *inner = value.types
            writer.add_key_value(key, value.contents(), kind, inner[0] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(directory.glob("tiny-*.gguf"))
    assert [part.name for part in parts] == [
        f"tiny-0000{number}-of-0000{PARTS}.gguf" for number in range(1, PARTS + 1)
    ]
    return parts


@pytest.fixture(scope="module")
def whole(make_gguf: MakeGguf) -> Path:
    return make_gguf("Q5_1").path


@pytest.fixture(scope="module")
def cut_once(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return cut(whole, tmp_path_factory.mktemp("parts"))


@pytest.fixture
def parts(cut_once: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copy(part, tmp_path)) for part in cut_once]


def assert_equal(ours: Any, theirs: GgufCheckpoint) -> None:
    assert ours.config == theirs.config
    assert ours.tokenizer() == theirs.tokenizer()
    assert set(ours.tensors) == set(theirs.tensors)
    for name in ("embedding", "lm_head", "final_norm", "layers.0.q", "layers.1.down"):
        np.testing.assert_array_equal(ours.tensor(name).dense(), theirs.tensor(name).dense())


@pytest.mark.parametrize("number", range(PARTS))
def test_any_part_opens_the_model(number: int, parts: list[Path], whole: Path) -> None:
    checkpoint = open_checkpoint(parts[number])
    assert list(checkpoint.files) == parts
    assert checkpoint.name == parts[0].name
    assert_equal(checkpoint, GgufCheckpoint.open(whole))
    assert digest(checkpoint.files) != digest(checkpoint.files[1:])


def test_a_first_part_of_metadata_alone(whole: Path, tmp_path: Path) -> None:
    assert_equal(
        open_checkpoint(cut(whole, tmp_path, first_empty=True)[0]), GgufCheckpoint.open(whole)
    )


def rewrite(part: Path, change: Callable[[bytearray, gguf.GGUFReader], None]) -> None:
    reader = gguf.GGUFReader(part)
    content = bytearray(part.read_bytes())
    change(content, reader)
    del reader
    part.write_bytes(content)


def set_field(part: Path, key: str, value: int) -> None:
    def change(content: bytearray, reader: gguf.GGUFReader) -> None:
        field = reader.fields[key]
        at = field.offset + 8 + len(key) + 4
        size = field.parts[field.data[0]].nbytes
        content[at : at + size] = value.to_bytes(size, "little")

    rewrite(part, change)


def set_name(part: Path, new: str) -> None:
    def change(content: bytearray, reader: gguf.GGUFReader) -> None:
        old = reader.tensors[0].name.encode()
        assert len(new) == len(old)
        at = content.index(old)
        content[at : at + len(old)] = new.encode()

    rewrite(part, change)


def name_of(part: Path) -> str:
    return str(gguf.GGUFReader(part).tensors[0].name)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("missing", [0, 2])
def test_a_part_that_is_missing(missing: int, parts: list[Path]) -> None:
    parts[missing].unlink()
    assert refusal(parts[1]) == (
        f"{parts[missing]}: part {missing + 1} of 4 is missing; put it beside {parts[1].name}"
    )


def test_a_part_of_another_name(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("model.gguf"))
    assert "part 1 of 4 by its metadata" in refusal(renamed)
    swapped = parts[1].rename(parts[0])
    assert "part 2 of 4 by its metadata" in refusal(swapped)


def test_parts_in_another_order(parts: list[Path]) -> None:
    parts[1].rename(parts[1].with_suffix(".kept"))
    parts[2].rename(parts[1])
    parts[1].with_suffix(".kept").rename(parts[2])
    assert refusal(parts[0]) == (
        f"{parts[1]}: not of the same model as {parts[0].name}: 'split.no' differs"
    )


@pytest.mark.parametrize("key", ["split.count", "split.tensors.count"])
def test_parts_of_different_models(key: str, parts: list[Path]) -> None:
    set_field(parts[2], key, 7)
    said = refusal(parts[0])
    assert said == f"{parts[2]}: not of the same model as {parts[0].name}: {key!r} differs"


def test_a_wrong_count_of_tensors(parts: list[Path]) -> None:
    for part in parts:
        set_field(part, "split.tensors.count", 99)
    assert re.fullmatch(r".*: its parts hold \d+ tensors together, not 99", refusal(parts[0]))


def test_a_tensor_in_two_parts(parts: list[Path]) -> None:
    first = gguf.GGUFReader(parts[0]).tensors
    name = next(t.name for t in first if len(t.name) == len(name_of(parts[1])))
    set_name(parts[1], name)
    assert refusal(parts[0]) == f"{parts[1]}: tensor {name!r} is in another part as well"


def test_a_part_cut_short(parts: list[Path]) -> None:
    parts[3].write_bytes(parts[3].read_bytes()[:-64])
    assert f"{parts[3]}: not a whole GGUF file" in refusal(parts[0])


def test_a_part_that_is_none(whole: Path, parts: list[Path]) -> None:
    shutil.copy(whole, parts[1])
    assert f"{parts[1]}: metadata key split.no is missing" in refusal(parts[0])
