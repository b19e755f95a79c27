"""What cannot be exported: one line that says why, the right exit code, nothing left behind."""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.makers import MakeGguf, MakeLlama
from support.tiny_llama import copy_of

from rbee_export import ExportError, open_checkpoint
from rbee_export.cli import main

Damage = Callable[[Path], object]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """``refused(*arguments, code=3)``: run the program and return the one line it says."""

    def run(*arguments: str | Path, code: int = 3) -> str:
        before = sorted(tmp_path.rglob("*"))
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        output = capsys.readouterr()
        assert status == code, output.err
        assert output.out == ""
        assert "Traceback" not in output.err
        assert len(output.err.splitlines()) == 1, output.err
        assert output.err.removesuffix("\n").isprintable(), output.err
        assert output.err.startswith("rbee-export: ")
        assert sorted(tmp_path.rglob("*")) == before
        return output.err

    return run


# Safetensors directories


def rewrite_json(name: str, **changes: Any) -> Damage:
    """Change keys of a JSON file; ``...`` takes one out."""

    def damage(directory: Path) -> None:
        file = directory / name
        settings = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))

    return damage


def rewrite_tensors(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(directory: Path) -> None:
        file = directory / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def write(name: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda directory: (directory / name).write_bytes(data)


def remove(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


def cut(name: str, size: int) -> Damage:
    return lambda directory: os.truncate(directory / name, size)


def cut_last_byte(directory: Path) -> None:
    file = directory / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)


UP = "model.layers.1.mlp.up_proj.weight"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 123456789\n"
config = functools.partial(rewrite_json, "config.json")
DIRECTORIES: dict[str, tuple[Damage, str]] = {
    "no config": (remove("config.json"), "config.json: missing; is this a model directory?"),
    "config no JSON": (write("config.json", "{"), "config.json: cannot be read"),
    "config not UTF-8": (write("config.json", b"\xff\xfe"), "config.json: not UTF-8 text"),
    "config a list": (write("config.json", "[]"), "config.json: not a JSON object"),
    "config without layers": (
        config(num_hidden_layers=...),
        "num_hidden_layers is missing",
    ),
    "config with a word for a number": (
        config(hidden_size="wide"),
        "hidden_size is missing",
    ),
    "config with null for a number": (
        config(num_attention_heads=None),
        "num_attention_heads is missing",
    ),
    "config with a list for a number": (
        config(vocab_size=[1]),
        "vocab_size is missing or not a number",
    ),
    "config with a word for rope": (
        config(rope_scaling="linear"),
        "rope parameters are not an object",
    ),
    "config with half a rope": (
        config(rope_scaling={"rope_type": "linear"}),
        "factor is missing or not a number",
    ),
    "config with infinity": (config(hidden_size=math.inf), "hidden_size is out of range"),
    "config with no number at all": (config(rms_norm_eps=math.nan), "rms_norm_eps is out of range"),
    "config with half a layer": (config(num_hidden_layers=1.5), "is not a whole number"),
    "config with a word for the window": (
        config(model_type="mistral", sliding_window="wide"),
        "config.json: sliding_window is missing or not a number",
    ),
    "config nested without end": (write("config.json", "[" * 100_000), "cannot be read"),
    "no context": (config(max_position_embeddings=0), "below 1"),
    "context beyond memory": (config(max_position_embeddings=10**13), "is no model's"),
    "negative": (config(num_hidden_layers=-1), "num_hidden_layers is -1; 1 to 1024 are possible"),
    "no heads": (config(num_attention_heads=0, head_dim=16), "below 1"),
    "no heads, no width": (config(num_attention_heads=0, head_dim=None), "below 1"),
    "heads that do not share": (config(num_key_value_heads=3), "4 query heads cannot share 3"),
    "head of 8": (config(head_dim=8), "head dimension 8 is not a multiple of 16"),
    "unknown family": (config(model_type="mamba"), "model type 'mamba' is not supported"),
    "no family": (config(model_type=...), "has no model_type; is this a model directory?"),
    "too many layers": (config(num_hidden_layers=10**12), "1 to 1024 are possible"),
    "window of 0": (config(model_type="mistral", sliding_window=0), "sliding_window is 0"),
    "no biases": (config(attention_bias=True), "self_attn.q_proj.bias is missing"),
    "no biases in the MLP": (config(mlp_bias=True), "mlp.gate_proj.bias is missing"),
    "activation": (config(hidden_act="gelu"), "activation 'gelu' is not supported"),
    "rope": (
        config(rope_scaling={"rope_type": "dynamic"}),
        "rope scaling 'dynamic' is not supported",
    ),
    "no weights": (remove("model.safetensors"), "no *.safetensors file in the directory"),
    "empty weights": (write("model.safetensors", b""), "not a whole safetensors file"),
    "cut header": (cut("model.safetensors", 100), "not a whole safetensors file"),
    "cut data": (cut_last_byte, "not a whole safetensors file"),
    "corrupt header": (
        write("model.safetensors", struct.pack("<Q", 8) + b"{{{{{{{{"),
        "not a whole safetensors file",
    ),
    "header beyond the file": (
        write("model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
        "not a whole safetensors file",
    ),
    "missing tensor": (rewrite_tensors(lambda t: t.pop(UP)), f"tensor {UP} is missing"),
    "missing head": (
        rewrite_tensors(lambda t: t.pop("lm_head.weight")),
        "lm_head.weight is missing",
    ),
    "wrong shape": (
        rewrite_tensors(lambda t: t.update({UP: t[UP][:, :32].copy()})),
        "layers.1.up has shape [128, 32], its configuration says [128, 64]",
    ),
    "quantised by another program": (
        rewrite_tensors(lambda t: t.update({UP.replace("weight", "qweight"): t.pop(UP)})),
        "its weights are quantised by AWQ or GPTQ; export the model that it was made of, or a GGUF",
    ),
    "integers": (
        rewrite_tensors(lambda t: t.update({UP: t[UP].astype(np.int32)})),
        f"tensor {UP} has type I32; supported are F32, F16, BF16",
    ),
    "index no JSON": (write("model.safetensors.index.json", "{"), "cannot be read"),
    "index without a map": (write("model.safetensors.index.json", "{}"), "index.json"),
    "index with a bad map": (
        write("model.safetensors.index.json", '{"weight_map": [1]}'),
        "index.json",
    ),
    "a pointer": (
        write("tokenizer.json", LFS_POINTER),
        "tokenizer.json: a pointer of Git LFS in the file's place; 'git lfs pull' fetches the file",
    ),
    "an adapter": (
        lambda model: (model / "config.json").rename(model / "adapter_config.json"),
        "an adapter (LoRA) without its model; merge it into that",
    ),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json: missing; save the model's fast"),
    "tokenizer no JSON": (write("tokenizer.json", "{"), "tokenizer.json"),
    "tokenizer not UTF-8": (write("tokenizer.json", b"\xff"), "tokenizer.json"),
    "template not UTF-8": (write("chat_template.jinja", b"\xff"), "not UTF-8 text"),
    "end not a number": (
        rewrite_json("generation_config.json", eos_token_id="end"),
        "eos_token_id",
    ),
    "end beyond the vocabulary": (
        rewrite_json("generation_config.json", eos_token_id=384),
        "generation_config.json: eos_token_id 384 is none of the tokenizer's 384 tokens",
    ),
    "beginning beyond the vocabulary": (
        rewrite_json("generation_config.json", bos_token_id=10**6),
        "generation_config.json: bos_token_id 1000000 is none of the tokenizer's 384 tokens",
    ),
    "tokenizer of another model": (
        config(vocab_size=300),
        "tokenizer.json: has a token with id 383, but the model's vocab_size is 300",
    ),
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_bad_directories(
    case: str, tiny_llama: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    damage, message = DIRECTORIES[case]
    model = copy_of(tiny_llama, tmp_path)
    damage(model)
    said = refused("--model", model, "--out", tmp_path / "out", "--exporter", "decoder")
    assert message in said


def test_a_missing_shard(
    make_llama: MakeLlama, tmp_path: Path, refused: Callable[..., str]
) -> None:
    model = copy_of(make_llama(max_shard_size="100KB"), tmp_path)
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.unlink()
    said = refused("--model", model, "--out", tmp_path / "out")
    assert f"{shard}: missing, but named by model.safetensors.index.json" in said


def test_shards_stay_inside_the_directory(
    make_llama: MakeLlama, tmp_path: Path, refused: Callable[..., str]
) -> None:
    model = copy_of(make_llama(max_shard_size="100KB"), tmp_path)
    index = model / "model.safetensors.index.json"
    outside = tmp_path / "outside.safetensors"
    save_file({UP: np.zeros((128, 64), np.float32)}, outside)
    content = json.loads(index.read_text())
    content["weight_map"][UP] = "../outside.safetensors"
    index.write_text(json.dumps(content))
    assert "index.json" in refused("--model", model, "--out", tmp_path / "out")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rows_that_are_no_whole_blocks(
    precision: str, make_llama: MakeLlama, tmp_path: Path, refused: Callable[..., str]
) -> None:
    model = make_llama(intermediate_size=100)
    said = refused("--model", model, "--out", tmp_path / "out", "--precision", precision)
    assert "layers.0.down has 100 columns, not a multiple of 32; use --precision fp32" in said


@pytest.mark.parametrize(
    ("precision", "value"),
    [("fp32", math.nan), ("int8", math.inf), ("int4", math.nan), ("fp16", 1e5)],
)
def test_weights_that_nothing_can_be_computed_with(
    precision: str, value: float, tiny_llama: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    model = copy_of(tiny_llama, tmp_path)
    rewrite_tensors(lambda tensors: tensors[UP].__setitem__((3, 3), value))(model)
    said = refused("--model", model, "--out", tmp_path / "out", "--precision", precision)
    assert "layers.1.up holds " in said
    assert ("too large for fp16" if precision == "fp16" else "NaN or infinity; download") in said


def test_kept_blocks_of_a_file_without_any(
    tiny_llama: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused("--model", tiny_llama, "--out", tmp_path / "out", "--precision", "gguf")
    assert "no quantised blocks for --precision gguf to keep; use fp32, int8 or int4" in said


# GGUF files


@pytest.fixture(scope="session")
def gguf_bytes(make_gguf: MakeGguf) -> bytes:
    return bytes(make_gguf("Q4_1").path.read_bytes())


def overwrite(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + data + content[at + len(data) :]


COUNT = struct.Struct("<Q")
FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "not a whole GGUF file"),
    "pointer": (lambda _: LFS_POINTER, "a pointer of Git LFS in the file's place"),
    "text": (lambda _: b"# Model card\n" * 100, "not a whole GGUF file"),
    "other magic": (overwrite(0, b"GGML"), "not a whole GGUF file"),
    "version 1": (overwrite(4, b"\1\0\0\0"), "GGUF version 1 is not supported"),
    "version 99": (overwrite(4, b"\x63\0\0\0"), "GGUF version 99 is not supported"),
    "huge tensor count": (overwrite(8, COUNT.pack(2**63)), "not a whole GGUF file"),
    "tensor count one too many": (overwrite(8, COUNT.pack(22)), "not a whole GGUF file"),
    "huge key count": (overwrite(16, COUNT.pack(2**63)), "not a whole GGUF file"),
    "one key too many": (overwrite(16, COUNT.pack(40)), "not a whole GGUF file"),
    "huge key length": (overwrite(24, COUNT.pack(2**62)), "not a whole GGUF file"),
    "key not UTF-8": (overwrite(32, b"\xff"), "not a whole GGUF file"),
    "cut in the header": (lambda content: content[:20], "not a whole GGUF file"),
    "cut in the metadata": (lambda content: content[:2000], "not a whole GGUF file"),
    "last byte cut": (lambda content: content[:-1], "not a whole GGUF file"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(
    case: str, gguf_bytes: bytes, tmp_path: Path, refused: Callable[..., str]
) -> None:
    change, message = FILES[case]
    model = tmp_path / "model.gguf"
    model.write_bytes(change(gguf_bytes))
    assert message in refused("--model", model, "--out", tmp_path / "out")


def refused_or_whole(path: Path) -> None:
    """Open and read everything: sound, or refused in a line."""
    said = None
    try:
        checkpoint = open_checkpoint(path)
        checkpoint.tokenizer()
        for name in ("embedding", "lm_head", "layers.0.q", "layers.1.down", "final_norm"):
            checkpoint.tensor(name).dense()
    except ExportError as error:
        said = str(error)
    assert said is None or (str(path) in said and "\n" not in said)


QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(part=st.floats(0, 1, exclude_max=True), metadata_only=st.booleans())
@QUIET
def test_a_file_cut_anywhere_is_refused(
    part: float, metadata_only: bool, gguf_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes[: int(part * (9000 if metadata_only else len(gguf_bytes)))])
    with pytest.raises(ExportError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@given(at=st.floats(0, 1), data=st.binary(min_size=1, max_size=9))
@example(at=0.0, data=b"GGUF\3\0\0\0\xff")
@QUIET
def test_a_file_with_any_bytes_changed_is_sound_or_refused(
    at: float, data: bytes, gguf_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "changed.gguf"
    path.write_bytes(overwrite(int(at * 12000), data)(gguf_bytes))
    refused_or_whole(path)


@given(at=st.floats(0, 1), data=st.binary(min_size=1, max_size=9))
@QUIET
def test_a_directory_with_any_bytes_changed_is_sound_or_refused(
    at: float, data: bytes, tiny_llama: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    if not model.exists():
        model.mkdir()
        for file in tiny_llama.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
    content = (tiny_llama / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(overwrite(int(at * 3000), data)(content))
    refused_or_whole(model)


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"llama.block_count": None}, "llama.block_count is missing or not a number"),
    "layers in words": ({"llama.block_count": "two"}, "llama.block_count is missing or not"),
    "too many layers": ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
    "heads of the wrong number": (
        {"llama.attention.head_count": 5},
        "5 query heads cannot share 2",
    ),
    "no heads": ({"llama.attention.head_count": 0}, "below 1"),
    "no context": ({"llama.context_length": 0}, "below 1"),
    "infinitely many layers": (
        {"llama.block_count": math.inf},
        "llama.block_count is out of range",
    ),
    "other width": ({"llama.embedding_length": 32}, "has shape"),
    "no template, no merges": ({"tokenizer.ggml.merges": None}, "merges is missing"),
    "no rotation": ({"llama.rope.freq_base": 0.0}, "rope.freq_base is 0; it must be above 1"),
    "rotation of nothing": (
        {"llama.rope.dimension_count": 0},
        "rope.dimension_count is 0, of a head of 16",
    ),
    "rotation beyond the head": (
        {"llama.rope.dimension_count": 2**31},
        "rope.dimension_count is 2147483648, of a head of 16",
    ),
    "stretched by nothing": (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0},
        "rope.scaling.factor is 0",
    ),
    "stretched from nothing": (
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 2.0,
            "llama.rope.scaling.original_context_length": 0,
        },
        "rope.scaling.original_context_length is 0; 1 to 2097152 are possible",
    ),
    "unknown splitting": ({"tokenizer.ggml.pre": "klingon"}, "'klingon' is not supported"),
    "fewer tokens than rows": ({"tokenizer.ggml.token_type": [1, 2]}, "token_type"),
}


@pytest.mark.parametrize("case", METADATA)
def test_files_that_contradict_themselves(
    case: str, make_gguf: MakeGguf, tmp_path: Path, refused: Callable[..., str]
) -> None:
    fields, message = METADATA[case]
    file = make_gguf(fields=fields)
    assert message in refused("--model", file.path, "--out", tmp_path / "out")


def test_what_a_file_says_does_not_reach_the_terminal_as_it_is(
    make_gguf: MakeGguf, refused: Callable[..., str]
) -> None:
    file = make_gguf(fields={"tokenizer.ggml.merges": ["a \x07\x1b[31m\x0b\x85"]})
    said = refused("--model", file.path)
    assert "merges do not fit the tokens" in said
    assert "\N{REPLACEMENT CHARACTER}[31m" in said


def test_rope_divisors_of_another_width(
    make_gguf: MakeGguf, tmp_path: Path, refused: Callable[..., str]
) -> None:
    file = make_gguf(rope_divisors=(1.0, 2.0, 3.0))
    said = refused("--model", file.path, "--out", tmp_path / "out")
    assert "rope_freqs.weight does not hold 8 numbers" in said


def test_another_architecture(tmp_path: Path, refused: Callable[..., str]) -> None:
    model = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(model, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said = refused("--model", model, "--out", tmp_path / "out")
    assert "architecture 'mamba' is not supported; docs/export.md lists what is" in said


# Paths and flags


@pytest.mark.parametrize("name", ["gone", "model.gguf"])
def test_optimum_takes_directories(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    said = refused("--model", tmp_path / name, "--out", tmp_path / "out", "--exporter", "optimum")
    assert f"{tmp_path / name}: no directory with config.json and *.safetensors" in said


def test_no_such_model(tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused("--model", tmp_path / "gone", "--out", tmp_path / "out")
    assert "gone: no such file or directory; --model takes a checkpoint on disk" in said


def test_neither_file_nor_directory(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "model.bin").touch()
    said = refused("--model", tmp_path / "model.bin", "--out", tmp_path / "out")
    assert "neither a GGUF file nor a directory" in said


def test_a_file_of_a_directory(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "model.safetensors").touch()
    said = refused("--model", tmp_path / "model.safetensors", "--out", tmp_path / "out")
    assert f"a file of a model's directory; give that, {tmp_path}" in said


def test_a_directory_around_a_gguf_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "model.gguf").touch()
    said = refused("--model", tmp_path, "--out", tmp_path / "out")
    assert f"name the file itself, as in {tmp_path / 'model.gguf'}" in said


def test_an_artifact_is_no_checkpoint(
    tiny_artifact: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused("--model", tiny_artifact, "--out", tmp_path / "out")
    assert f"{tiny_artifact}: an artifact already; rbee-generate and rbee-worker run it" in said


@pytest.mark.parametrize("place", ["file", "directory", "below a file"])
def test_a_target_that_is_something_else(
    place: str, tiny_llama: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "precious").touch()
    target = {"below a file": "file/out"}.get(place, place)
    assert str(tmp_path) in refused("--model", tiny_llama, "--out", tmp_path / target)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model"],
        ["--model", "m", "--precision", "int3"],
        ["--model", "m", "--out", "a", "--cache", "b"],
        ["--model", "m", "--model-ref", "../x"],
        ["--model", "m", "--model-ref", "a b"],
        ["--model", "m", "--model-ref", ""],
        ["--model", "m", "--model-ref", "x" * 513],
        ["--model", "m", "--nonsense"],
        ["--model", "m", "stray"],
    ],
)
def test_bad_flags(flags: list[str], refused: Callable[..., str]) -> None:
    assert "see rbee-export --help" in refused(*flags, code=2)


def test_a_checkpoint_without_its_flag(refused: Callable[..., str]) -> None:
    assert "'model.gguf'" in (told := refused("model.gguf", code=2))
    assert "a checkpoint is named by --model" in told


# The program itself


def run_program(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("rbee-export")
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_the_console_script_says_one_line(tmp_path: Path) -> None:
    done = run_program("--model", tmp_path / "gone.gguf")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        f"rbee-export: {tmp_path}/gone.gguf: no such file or directory; "
        "--model takes a checkpoint on disk or hf:org/name\n"
    )


def limit_file_size() -> None:
    # With the signal ignored, writing on fails as it does on a full disk, with an OSError.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_write_that_fails_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    done = run_program("--model", tiny_llama, "--out", tmp_path / "out", preexec_fn=limit_file_size)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "too large" in done.stderr
    assert "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``mount(options)``: a small file system of its own, where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk takes rights this user does not have")
        return disk

    yield make
    subprocess.run(["umount", str(disk)], capture_output=True, check=False)


def test_a_full_disk_leaves_nothing(
    tiny_llama: Path, mount: Callable[[str], Path], refused: Callable[..., str]
) -> None:
    disk = mount("size=64k")
    said = refused("--model", tiny_llama, "--out", disk / "out")
    assert f"{disk / 'out'}: No space left on device; nothing was written" in said
    assert list(disk.iterdir()) == []


def test_a_disk_that_cannot_be_written(
    tiny_llama: Path, mount: Callable[[str], Path], refused: Callable[..., str]
) -> None:
    said = refused("--model", tiny_llama, "--out", mount("ro") / "out")
    assert "Read-only file system" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written(
    tiny_llama: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    tmp_path.chmod(0o500)
    try:
        said = refused("--model", tiny_llama, "--out", tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in said


# What works


def test_the_path_is_printed_and_the_cache_used_again(tiny_llama: Path, tmp_path: Path) -> None:
    arguments = ["--model", tiny_llama, "--cache", tmp_path, "--print-path"]
    first = run_program(*arguments)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.removesuffix("\n"))
    assert path.parent == tmp_path
    written = (path / "artifact.json").stat().st_mtime_ns
    again = run_program(*arguments)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert again.stderr == f"{path}  int8, exported before\n"
    assert (path / "artifact.json").stat().st_mtime_ns == written
    (path / "model.onnx").unlink()
    assert run_program(*arguments).stdout == first.stdout
    assert (path / "model.onnx").is_file()


@pytest.mark.parametrize("succeeds", [True, False])
def test_another_export_into_the_cache_is_waited_for(
    succeeds: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    arguments = ["--model", tiny_llama, "--cache", cache, "--no-verify", "--print-path"]
    path = Path(run_program(*arguments).stdout.removesuffix("\n"))
    away = path.rename(tmp_path / "away")
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        program = Path(sys.executable).with_name("rbee-export")
        exporter = subprocess.Popen(
            [str(program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert exporter.stderr is not None
        waits = exporter.stderr.readline()
        assert waits == f"rbee-export: {path}: waiting for another export, which is writing it\n"
        if succeeds:
            away.rename(path)
        lock.unlink()
    out, err = exporter.communicate(timeout=60)
    assert (exporter.returncode, out) == (0, f"{path}\n")
    assert ("exported before" in err) == succeeds
    assert (path / "artifact.json").is_file()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_who_looks_may_leave(tiny_llama: Path, tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "out"
    assert main(["--model", str(tiny_llama), "--out", str(out), "--no-verify"]) == 0
    reading, writing = os.pipe()
    os.close(reading)
    program = Path(sys.executable).with_name("rbee-export")
    try:
        done = subprocess.run(
            [str(program), "inspect", str(out), *flags],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.stderr == ""


def test_the_reference_is_kept(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--model", tiny_llama, "--out", out, "--model-ref", "hf:org/name"]
    assert main([str(argument) for argument in arguments]) == 0
    assert json.loads((out / "artifact.json").read_text())["model_ref"] == "hf:org/name"
