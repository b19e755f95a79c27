"""Models from a hub: what is downloaded, what is checked, and what is said when it fails."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from support.hub_stand_in import HubStandIn, serve_hub
from support.makers import MakeGguf, MakeLlama

from rbee_export import CheckpointError, ExportError, digest, download, open_checkpoint
from rbee_export.source import ModelSource, model_reference, resolve

Find = Callable[..., ModelSource]

WEIGHTS = save({"x": np.arange(100_000, dtype=np.float32)})
MODEL = {
    "config.json": '{"model_type": "llama"}',
    "generation_config.json": "{}",
    "tokenizer.json": '{"version": "1.0"}',
    "tokenizer_config.json": '{"x": 1}',
    "chat_template.jinja": "{{ messages }}",
    "model.safetensors": WEIGHTS,
}
LEFT = {
    "README.md": "# Model",
    "pytorch_model.bin": b"\x80\x02pickle",
    "consolidated.safetensors": WEIGHTS + b" ",
    "consolidated.00.pth": b"PK",
    "tf_model.h5": b"hdf",
    "flax_model.msgpack": b"msg",
    "onnx/model.onnx": b"onnx",
    "modeling_custom.py": "raise SystemExit",
    "original/model.safetensors": WEIGHTS,
    "training_args.bin": b"\x80",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", os.devnull)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with serve_hub() as served:
        yield served


@pytest.fixture
def find(hub: HubStandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Find:
    """``find(reference)``: resolve against the stand-in, which must not print anything."""

    def run(reference: str, **options: object) -> ModelSource:
        try:
            return resolve(reference, cache=tmp_path / "hub", endpoint=hub.url, **options)  # type: ignore[arg-type]
        finally:
            assert capfd.readouterr() == ("", "")

    return run


def said(find: Find, reference: str, kind: type[ExportError] = ExportError) -> str:
    with pytest.raises(kind) as caught:
        find(reference)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("hf:")
    return message


# What a reference means


@pytest.mark.parametrize(
    ("reference", "announced"),
    [
        ("hf:org/name", "hf:org/name"),
        ("hf:org/na.me-2_b@v1.0", "hf:org/na.me-2_b"),
        ("hf:org/name@refs/pr/1:sub/x.gguf", "hf:org/name"),
        ("models/hf/name", None),
        ("./model.gguf", None),
    ],
)
def test_what_the_worker_announces(reference: str, announced: str | None) -> None:
    assert model_reference(reference) == announced


@pytest.mark.parametrize(
    "reference",
    ["hf:", "hf:name", "hf:org/", "hf:org/name@", "hf:org/name:", "hf:../name", "hf:a/b/c"],
)
def test_what_is_no_reference(reference: str, find: Find, hub: HubStandIn) -> None:
    assert "not a model's reference; write hf:org/name" in said(find, reference)
    assert hub.requests == []


def test_a_path_is_taken_as_it_is(find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    assert find(str(tmp_path / "x.gguf")) == ModelSource(tmp_path / "x.gguf", "x.gguf")
    assert hub.requests == []


# What is downloaded


def test_a_directory_has_what_an_export_needs_and_no_more(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", {**MODEL, **LEFT})
    source = find("hf:org/tiny")
    assert source.name == "tiny"
    present = {p.relative_to(source.path).as_posix() for p in source.path.rglob("*")}
    assert present == set(MODEL)
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
    asked = {name for name, _ in hub.bodies()}
    assert asked == {f"{hub.repositories['org/tiny'].commit}/{name}" for name in MODEL}


def test_a_directory_of_sentence_transformers(find: Find, hub: HubStandIn) -> None:
    modules = {
        "modules.json": "[]",
        "sentence_bert_config.json": "{}",
        "config_sentence_transformers.json": "{}",
        "1_Pooling/config.json": "{}",
        "2_Dense/config.json": "{}",
        "2_Dense/model.safetensors": WEIGHTS,
    }
    left = {
        "1_Pooling/model.safetensors": WEIGHTS,
        "2_Dense/pytorch_model.bin": WEIGHTS,
        "3_LayerNorm/config.json": "{}",
        "vocab.txt": "[PAD]",
    }
    hub.add("org/encoder", {**MODEL, **modules, **left, **LEFT})
    path = find("hf:org/encoder").path
    present = {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()}
    assert present == {*MODEL, *modules}
    (path / "1_Pooling" / "config.json").unlink()
    assert find("hf:org/encoder").path == path
    assert (path / "1_Pooling" / "config.json").is_file()


def test_a_vocabulary_is_read_where_there_is_no_tokenizer(find: Find, hub: HubStandIn) -> None:
    files = {name: content for name, content in MODEL.items() if name != "tokenizer.json"}
    hub.add("org/encoder", {**files, "vocab.txt": "[PAD]"})
    path = find("hf:org/encoder").path
    assert {file.name for file in path.iterdir()} == {*files, "vocab.txt"}


def test_shards_are_those_that_the_index_names(find: Find, hub: HubStandIn) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": save({f"x{n}": np.ones(n)}) for n in (1, 2)}
    index = {"weight_map": {"x1": min(shards), "x2": max(shards)}}
    rest = {k: v for k, v in MODEL.items() if k != "model.safetensors"}
    stray = {"model-00001-of-00009.safetensors": b"stale", "consolidated.safetensors": b"twice"}
    files = {**rest, **shards, **stray, "model.safetensors.index.json": json.dumps(index)}
    hub.add("org/big", files)
    path = find("hf:org/big").path
    assert {p.name for p in path.glob("*.safetensors*")} == {
        *shards,
        "model.safetensors.index.json",
    }


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "COMMIT"])
def test_a_revision(revision: str, find: Find, hub: HubStandIn) -> None:
    repository = hub.add("org/tiny", MODEL)
    revision = revision.replace("COMMIT", repository.commit)
    assert find(f"hf:org/tiny@{revision}").path.name == repository.commit
    assert hub.requests[0].path == f"/api/models/org/tiny/revision/{revision}"


def test_what_is_here_is_not_asked_for_again(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    first = find("hf:org/tiny")
    before = len(hub.bodies())
    assert find("hf:org/tiny") == first
    hub.add("org/tiny", {**MODEL, "tokenizer.json": "[]"})
    changed = find("hf:org/tiny")
    assert changed != first
    assert (changed.path / "tokenizer.json").read_text() == "[]"
    assert [name.rpartition("/")[2] for name, _ in hub.bodies()[before:]] == ["tokenizer.json"]


def test_progress_counts_every_byte(find: Find, hub: HubStandIn) -> None:
    total = sum(len(content) for content in MODEL.values())
    hub.add("org/tiny", MODEL)
    seen: list[tuple[int, int]] = []
    find("hf:org/tiny", progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert len(seen) > len(MODEL)
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    again: list[tuple[int, int]] = []
    find("hf:org/tiny", progress=lambda *step: again.append(step))
    assert again == [(total, total)]


def test_two_exporters_download_once(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.delay = 0.02
    threads = [threading.Thread(target=find, args=("hf:org/tiny",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.bodies()) == len(MODEL)


def test_an_export_reads_what_came(
    find: Find, hub: HubStandIn, make_llama: MakeLlama, tmp_path: Path
) -> None:
    model = make_llama(max_shard_size="100KB")
    hub.add("org/llama", {file.name: file.read_bytes() for file in model.iterdir()})
    here, there = open_checkpoint(model), open_checkpoint(find("hf:org/llama").path)
    assert there.config == here.config
    assert digest(there.files) == digest(here.files)
    np.testing.assert_array_equal(
        there.tensor("layers.1.down").dense(), here.tensor("layers.1.down").dense()
    )


# GGUF files

QUANTS = {
    "tiny-Q4_K_M.gguf": b"GGUF q4km",
    "tiny-Q4_K_S.gguf": b"GGUF q4ks",
    "tiny.Q8_0.gguf": b"GGUF q8",
    "BF16/tiny-BF16-00001-of-00002.gguf": b"GGUF bf16 1",
    "BF16/tiny-BF16-00002-of-00002.gguf": b"GGUF bf16 2",
    "mmproj-tiny-f16.gguf": b"GGUF eyes",
    "imatrix.gguf": b"GGUF importance",
    "README.md": "# Quants",
}


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("tiny-Q4_K_M.gguf", "tiny-Q4_K_M.gguf"),
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("q4_k_s", "tiny-Q4_K_S.gguf"),
        ("q8_0", "tiny.Q8_0.gguf"),
        ("mmproj-tiny-f16.gguf", "mmproj-tiny-f16.gguf"),
        ("bf16", "BF16/tiny-BF16-00001-of-00002.gguf"),
        ("BF16/tiny-BF16-00002-of-00002.gguf", "BF16/tiny-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_file(wanted: str, file: str, find: Find, hub: HubStandIn) -> None:
    hub.add("org/quants", {**QUANTS, **MODEL})
    source = find(f"hf:org/quants:{wanted}")
    assert source.path.as_posix().endswith(f"/{file}")
    assert source.path.read_bytes() == QUANTS[file]
    assert source.name == Path(file).name
    parts = {name for name in QUANTS if name.startswith("BF16/")} if "BF16" in file else {file}
    commit = hub.repositories["org/quants"].commit
    assert {name for name, _ in hub.bodies()} == {f"{commit}/{part}" for part in parts}


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ("", "holds several models; name one of BF16/tiny-BF16-00001-of-00002.gguf, tiny-Q4_K_M"),
        (":Q4_K", "has no file Q4_K; name one of BF16/"),
        (":Q5_K_M", "has no file Q5_K_M; name one of BF16/"),
        (":tiny", "has several files tiny; name one of BF16/"),
        (":other.gguf", "has no file other.gguf; name one of BF16/"),
        (":README.md", "has no file README.md; name one of BF16/"),
    ],
)
def test_the_choices_are_listed(wanted: str, problem: str, find: Find, hub: HubStandIn) -> None:
    hub.add("org/quants", QUANTS)
    message = said(find, f"hf:org/quants{wanted}")
    assert f"hf:org/quants: {problem}" in message
    assert "mmproj" not in message
    assert "imatrix" not in message
    assert hub.bodies() == []


def test_the_only_file_needs_no_name(find: Find, hub: HubStandIn) -> None:
    hub.add("org/quants", {k: v for k, v in QUANTS.items() if "Q8" in k or "mmproj" in k})
    assert find("hf:org/quants").path.name == "tiny.Q8_0.gguf"


def test_a_long_list_is_cut(find: Find, hub: HubStandIn) -> None:
    hub.add("org/quants", {f"m-{n:03}.gguf": bytes([n]) for n in range(200)})
    assert "m-011.gguf and 188 more after a colon" in said(find, "hf:org/quants")


def test_a_part_that_is_not_there(find: Find, hub: HubStandIn) -> None:
    hub.add("org/quants", {"m-00001-of-00002.gguf": b"1", "x.gguf": b"2"})
    message = said(find, "hf:org/quants:m-00001-of-00002.gguf", CheckpointError)
    assert "m-00002-of-00002.gguf: not there, but m-00001-of-00002.gguf needs it" in message
    hub.add("org/quants", {"m-00001-of-99999.gguf": b"1"})
    assert "has 99999 parts" in said(find, "hf:org/quants", CheckpointError)


def test_a_file_is_exported_from_the_cache(
    find: Find, hub: HubStandIn, make_gguf: MakeGguf
) -> None:
    made = make_gguf("Q4_1")
    hub.add("org/quants", {"tiny-Q4_1.gguf": made.path.read_bytes()})
    opened = open_checkpoint(find("hf:org/quants").path)
    np.testing.assert_array_equal(
        opened.tensor("layers.0.q").dense(), open_checkpoint(made.path).tensor("layers.0.q").dense()
    )


# When the connection is bad


def test_a_dropped_connection_goes_on_where_it_broke(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.drops = [150_000, 7, 0, 100_000]
    source = find("hf:org/tiny")
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
    starts = [start for name, start in hub.bodies() if name.endswith("model.safetensors")]
    assert starts == [0, 150_000, 150_007, 150_007, 250_007]


def test_the_next_run_goes_on_where_this_one_gave_up(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.drops = [150_000, *[0] * 5]
    message = said(find, "hf:org/tiny")
    assert f"{hub.url} does not answer as it should" in message
    assert "what has come is kept" in message
    hub.requests.clear()
    seen: list[tuple[int, int]] = []
    source = find("hf:org/tiny", progress=lambda *step: seen.append(step))
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
    assert [start for _, start in hub.bodies()] == [150_000]
    assert seen == sorted(seen)


def test_a_server_that_knows_no_ranges(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.drops = [150_000]
    hub.ignores_ranges = True
    source = find("hf:org/tiny")
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("place", ["/api/", "/resolve/", "/cdn/", "HEAD"])
def test_a_hub_that_is_busy_is_asked_again(place: str, find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.errors, hub.errors_at = [503], place
    assert (find("hf:org/tiny").path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.errors == []


def test_a_broken_hub(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    hub.errors = [500] * 5
    assert f"{hub.url} answers with status 500; try again later" in said(find, "hf:org/tiny")


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ExportError) as caught:
        resolve("hf:org/tiny", cache=tmp_path, endpoint=address)
    assert str(caught.value) == (
        f"hf:org/tiny: {address} does not answer as it should (Connection refused); try again, "
        "what has come is kept; or set HF_HUB_OFFLINE=1 to use what is in the cache"
    )


# When it is not what it should be


def test_another_content_is_removed(find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("org/tiny", MODEL)
    hub.corrupt = True
    message = said(find, "hf:org/tiny", CheckpointError)
    assert "model.safetensors: came with another checksum than the hub says" in message
    assert max(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < len(WEIGHTS)
    hub.corrupt = False
    assert (find("hf:org/tiny").path / "model.safetensors").read_bytes() == WEIGHTS


def cut_short(find: Find, hub: HubStandIn) -> None:
    """Have a download end after 150,000 bytes of weights, for good."""
    hub.drops, hub.errors, hub.errors_at = [150_000], [0, 403], "/cdn/"
    said(find, "hf:org/tiny")


def test_a_beginning_that_went_bad_on_the_disk(find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("org/tiny", MODEL)
    cut_short(find, hub)
    (partial,) = tmp_path.rglob("*.incomplete")
    partial.write_bytes(b"?" + partial.read_bytes()[1:])
    assert "another checksum" in said(find, "hf:org/tiny", CheckpointError)
    assert (find("hf:org/tiny").path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_beginning_that_is_too_long(find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("org/tiny", MODEL)
    cut_short(find, hub)
    (partial,) = tmp_path.rglob("*.incomplete")
    partial.write_bytes(WEIGHTS * 2)
    assert (find("hf:org/tiny").path / "model.safetensors").read_bytes() == WEIGHTS


def test_more_bytes_than_were_promised(find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("org/tiny", MODEL, listed={"model.safetensors": {"size": 1000}})
    assert "another checksum" in said(find, "hf:org/tiny", CheckpointError)
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_small_file_is_checked_too(find: Find, hub: HubStandIn) -> None:
    lie = {"config.json": {"blobId": "0" * 40}}
    hub.add("org/tiny", MODEL, listed=lie)
    message = said(find, "hf:org/tiny", CheckpointError)
    assert "config.json: came with another checksum" in message


@pytest.mark.parametrize("lie", [{"size": None}, {"blobId": None}, {"blobId": "../../x"}])
def test_a_listing_that_makes_no_sense(lie: dict[str, None], find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL, listed={"config.json": lie})
    assert "gives no size or checksum of config.json" in said(find, "hf:org/tiny")
    assert hub.bodies() == []


@pytest.mark.parametrize("name", ["../../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf"])
def test_files_stay_in_the_cache(name: str, find: Find, hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("org/evil", {name: b"GGUF"})
    said(find, "hf:org/evil")
    said(find, f"hf:org/evil:{name}")
    assert hub.bodies() == []
    assert not list(tmp_path.rglob("evil.gguf"))


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("{", "index.json: cannot be read"),
        ("[]", "index.json: not a JSON object"),
        ("{}", "weight_map must give a file name for each tensor"),
        ('{"weight_map": [1]}', "weight_map must give a file name for each tensor"),
        ('{"weight_map": {"x": ["a"]}}', "names ['a'], which is no file of the directory"),
        ('{"weight_map": {"x": "pytorch_model.bin"}}', "only .safetensors are ever loaded"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "which is no file of the directory"),
        ('{"weight_map": {"x": "x.safetensors"}}', "names 'x.safetensors', which is not there"),
        ("[" * 100_000, "index.json: cannot be read"),
    ],
)
def test_a_bad_index(index: str, problem: str, find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", {**MODEL, **LEFT, "model.safetensors.index.json": index})
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        find("hf:org/tiny")
    assert not any("pytorch" in name for name, _ in hub.bodies())


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "has no config.json; name a whole model"),
        ({"model.safetensors": WEIGHTS}, "has no config.json; name a whole model"),
        (
            {"adapter_config.json": "{}", "adapter_model.safetensors": WEIGHTS},
            "has no config.json (an adapter: merge it into its model)",
        ),
        (
            {"config.json": "{}", "pytorch_model.bin": b"\x80"},
            "has neither *.safetensors nor *.gguf; pickles (*.bin, *.pt) are never loaded",
        ),
        (
            {"config.json": "{}", "consolidated.safetensors": WEIGHTS},
            "holds its weights as consolidated.safetensors only",
        ),
    ],
)
def test_a_repository_without_a_model(
    files: dict[str, bytes], problem: str, find: Find, hub: HubStandIn
) -> None:
    hub.add("org/odd", files)
    assert problem in said(find, "hf:org/odd")
    assert hub.bodies() == []


def test_a_file_of_a_repository_without_any(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    assert "hf:org/tiny: has no .gguf file" in said(find, "hf:org/tiny:Q4_K_M")


def test_no_room(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL, listed={"model.safetensors": {"size": 10**16}})
    message = said(find, "hf:org/tiny")
    assert "10000000.00 GB are still to come" in message
    assert "make room, or set HF_HOME to another disk" in message
    assert hub.bodies() == []


# Who may read what


def test_no_such_repository(find: Find, hub: HubStandIn) -> None:
    message = said(find, "hf:org/none")
    assert f"no such repository at {hub.url}, or a private one" in message
    assert "set HF_TOKEN" in message


def test_no_such_revision(find: Find, hub: HubStandIn) -> None:
    hub.add("org/tiny", MODEL)
    assert "hf:org/tiny@v9: the repository has no such revision" in said(find, "hf:org/tiny@v9")


def test_a_gated_repository(find: Find, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.add("org/gated", MODEL, gated=True)
    consent = f"its authors ask for consent; give it at {hub.url}/org/gated and set HF_TOKEN"
    assert consent in said(find, "hf:org/gated@v1")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert consent in said(find, "hf:org/gated")
    repository.gated = False
    assert find("hf:org/gated").name == "gated"


def test_a_private_repository(find: Find, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", MODEL, token="hf_owner")
    assert "no such repository" in said(find, "hf:org/private")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert "no such repository" in said(find, "hf:org/private")
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    hub.requests.clear()
    assert find("hf:org/private").name == "private"
    tokens = {request.path.split("/")[1]: request.token for request in hub.requests}
    # Weights lie on another host, which the token is none of the business of.
    assert tokens == {"api": "hf_owner", "org": "hf_owner", "cdn": None}


# The program's environment

PROGRAM = """
import sys
from rbee_export import ExportError
from rbee_export.source import resolve
for reference in sys.argv[1:]:
    try:
        print(resolve(reference).path)
    except ExportError as error:
        sys.exit(str(error))
"""


def program(*references: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *references],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_environment_is_honoured(hub: HubStandIn, tmp_path: Path) -> None:
    repository = hub.add("org/tiny", MODEL, token="hf_owner")
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    online = program("hf:org/tiny", **place, HF_TOKEN="hf_owner")
    assert (online.returncode, online.stderr) == (0, "")
    path = Path(online.stdout.strip())
    assert path == tmp_path / "hub/models--org--tiny/snapshots" / repository.commit
    asked = len(hub.requests)
    offline = program(
        "hf:org/tiny",
        f"hf:org/tiny@{repository.commit}",
        "hf:org/tiny@v1",
        **place,
        HF_HUB_OFFLINE="1",
    )
    assert offline.stdout == online.stdout * 2
    assert offline.returncode == 1
    assert offline.stderr == (
        f"hf:org/tiny@v1: not in the cache {tmp_path / 'hub'}, and HF_HUB_OFFLINE forbids to "
        "download; unset it\n"
    )
    assert len(hub.requests) == asked
