"""What a directory of sentence-transformers says besides its encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_encoders import CONTEXT, save_modules, write_json
from support.tiny_llama import copy_of
from tokenizers import Tokenizer

from rbee_export import CheckpointError, UnsupportedModel, digest, open_embedder
from rbee_export.cli import main
from rbee_export.embedding_fidelity import artifact_embeddings
from rbee_runtime.artifact import EmbedderArtifact

TEXTS = (
    "",
    "Hello, World!",
    "  A token in,\ta token out \n",
    "naïve CAFÉ 你好 🙂 don't",
    "x" * 120,
    "[MASK] <mask> the worker",
)


@pytest.fixture
def encoder(make_encoder: MakeEncoder, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return copy_of(make_encoder(), tmp_path)


def ids(checkpoint: Path, text: str) -> list[int]:
    found: list[int] = Tokenizer.from_str(open_embedder(checkpoint).tokenizer()).encode(text).ids
    return found


def theirs(checkpoint: Path, text: str) -> list[int]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    found: list[int] = tokenizer(text)["input_ids"]
    return found


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "mpnet"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_transformers(name: str, text: str, make_encoder: MakeEncoder) -> None:
    plain = make_encoder(name, modules=None)
    assert ids(plain, text) == theirs(plain, text)
    if name != "roberta" or "<mask>" not in text:  # where spaces beside special tokens count
        # sentence-transformers takes spaces at either end away first
        assert ids(make_encoder(name), text) == theirs(plain, text.strip())


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {},
    ],
)
@pytest.mark.parametrize("serialised", [True, False])
def test_the_small_file_has_a_say_in_word_pieces(
    options: dict[str, Any], serialised: bool, encoder: Path
) -> None:
    shutil.rmtree(encoder / "1_Pooling")
    (encoder / "modules.json").unlink()
    write_json(encoder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **options})
    if not serialised:
        only_vocabulary(encoder)
    for text in TEXTS:
        assert ids(encoder, text) == theirs(encoder, text)


def only_vocabulary(encoder: Path) -> None:
    """Replace a serialised tokenizer by its tokens, one a line."""
    vocabulary = json.loads((encoder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    (encoder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (encoder / "tokenizer.json").unlink()


def test_the_vocabulary_is_part_of_the_source(encoder: Path) -> None:
    only_vocabulary(encoder)
    before = digest(open_embedder(encoder).files)
    file = encoder / "vocab.txt"
    file.write_text(file.read_text().replace("\nthe\n", "\nteh\n"), encoding="utf-8")
    assert digest(open_embedder(encoder).files) != before


def test_a_text_in_lower_case(encoder: Path) -> None:
    write_json(
        encoder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
    )
    assert ids(encoder, "Hello") != ids(encoder, "hello")
    write_json(encoder / "sentence_bert_config.json", {"do_lower_case": True})
    assert ids(encoder, "Hello") == ids(encoder, "hello")


@pytest.mark.parametrize(
    ("said", "longest"), [(None, CONTEXT), (40, 40), (CONTEXT, CONTEXT), (8192, CONTEXT)]
)
def test_the_longest_text(said: int | None, longest: int, encoder: Path) -> None:
    write_json(encoder / "sentence_bert_config.json", {"max_seq_length": said})
    assert open_embedder(encoder).config.context_length == longest


def test_a_short_limit_changes_no_vector(
    encoder: Path, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    write_json(encoder / "sentence_bert_config.json", {"max_seq_length": 12})
    text = [list(range(10, 22))]
    short, long = (
        artifact_embeddings(EmbedderArtifact.open(make_embedder(checkpoint, "fp32")), text)
        for checkpoint in (encoder, make_encoder())
    )
    assert np.array_equal(short, long)


def test_the_default_prompt(encoder: Path, make_embedder: MakeArtifact) -> None:
    prompts = {"prompts": {"query": "query: ", "doc": "doc: "}}
    write_json(encoder / "config_sentence_transformers.json", prompts)
    assert open_embedder(encoder).modules.prompt == ""
    write_json(
        encoder / "config_sentence_transformers.json", {**prompts, "default_prompt_name": "doc"}
    )
    manifest = EmbedderArtifact.open(make_embedder(encoder)).manifest
    assert manifest.embedding.prompt == "doc: "


@pytest.mark.parametrize(
    ("said", "lengths"),
    [
        ({}, ()),
        ({"is_matryoshka": True}, "any"),
        ({"is_matryoshka": False}, ()),
        ({"matryoshka_dimensions": [64, 32, 16, 32]}, (16, 32)),
        ({"matryoshka_dimensions": [64], "is_matryoshka": True}, ()),
    ],
)
def test_lengths_that_vectors_may_be_cut_to(
    said: dict[str, Any], lengths: object, encoder: Path, make_embedder: MakeArtifact
) -> None:
    rewrite("config.json", **said)(encoder)
    artifact = EmbedderArtifact.open(make_embedder(encoder, "fp32"))
    assert artifact.manifest.embedding.matryoshka == lengths
    assert ("matryoshka" in (artifact.path / "artifact.json").read_text()) == bool(lengths)
    # Cut, a vector is made of length 1 again: one that never was is not cut.
    modules("Transformer", "Pooling")(encoder)
    plain = make_embedder(shutil.copytree(encoder, encoder.parent / "plain"), "fp32")
    assert EmbedderArtifact.open(plain).manifest.embedding.matryoshka == ()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "include_prompt": False}, "mean"),
    ],
)
def test_poolings(settings: dict[str, Any], kind: str, encoder: Path) -> None:
    write_json(encoder / "1_Pooling" / "config.json", settings)
    assert open_embedder(encoder).modules.pooling.kind == kind


def test_an_encoder_in_a_folder_of_its_own(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    root = tmp_path / "older"
    shutil.copytree(make_encoder(modules=None), root / "0_Transformer")
    save_modules(root, ("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True})
    listed = json.loads((root / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    write_json(root / "modules.json", listed)
    assert main(["--model", str(root), "--out", str(tmp_path / "out"), "--no-verify"]) == 0
    assert EmbedderArtifact.open(tmp_path / "out").manifest.source.name == "older"


Change = Callable[[Path], object]


DENSE = {"in_features": 64, "out_features": 32, "bias": True}


def modules(*names: str) -> Change:
    return lambda encoder: save_modules(encoder, names, {"pooling_mode_mean_tokens": True}, [DENSE])


def rewrite(name: str, **changes: Any) -> Change:
    def change(encoder: Path) -> None:
        file = encoder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        write_json(file, {**content, **changes})

    return change


def dense(**settings: Any) -> Change:
    def change(encoder: Path) -> None:
        layer = {**DENSE, **settings}
        kinds = ("Transformer", "Pooling", "Dense", "Normalize")
        save_modules(encoder, kinds, {"pooling_mode_mean_tokens": True}, [layer])

    return change


def folder(path: object) -> Change:
    return lambda encoder: write_json(
        encoder / "modules.json",
        [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": path}],
    )


UNSUPPORTED: dict[str, tuple[Change, str]] = {
    "a layer norm": (modules("Transformer", "Pooling", "LayerNorm"), "LayerNorm"),
    "a dense layer behind the norm": (
        modules("Transformer", "Pooling", "Normalize", "Dense"),
        "Normalize → Dense",
    ),
    "a dense layer's activation": (
        dense(activation_function="torch.nn.modules.activation.ReLU"),
        "activation.ReLU' is not supported; Identity and Tanh are",
    ),
    "a dense layer of tokens": (dense(module_input_name="token_embeddings"), "module_input_name"),
    "no pooling": (modules("Transformer"), "Transformer"),
    "word vectors": (modules("WordEmbeddings", "Pooling"), "WordEmbeddings"),
    "maximum": (rewrite("1_Pooling/config.json", pooling_mode="max"), "max"),
    "two poolings": (
        rewrite("1_Pooling/config.json", pooling_mode_cls_token=True),
        "cls with mean",
    ),
    "weighted": (
        rewrite(
            "1_Pooling/config.json",
            pooling_mode_mean_tokens=False,
            pooling_mode_weightedmean_tokens=True,
        ),
        "weightedmean",
    ),
    "a prompt that is not pooled": (
        lambda encoder: (
            rewrite("1_Pooling/config.json", include_prompt=False)(encoder),
            rewrite(
                "config_sentence_transformers.json",
                prompts={"a": "b"},
                default_prompt_name="a",
            )(encoder),
        ),
        "include_prompt",
    ),
    "relative positions": (
        rewrite("config.json", position_embedding_type="relative_key"),
        "relative_key",
    ),
    "other buckets": (
        rewrite("config.json", model_type="mpnet", relative_attention_num_buckets=64),
        "relative_attention_num_buckets 64",
    ),
    "an activation that gates nothing": (
        rewrite("config.json", model_type="modernbert", hidden_activation="relu"),
        "activation 'relu' is not supported for modernbert",
    ),
    "a decoder": (rewrite("config.json", is_decoder=True), "decoder"),
    "an activation": (rewrite("config.json", hidden_act="tanh"), "tanh"),
    "an activation of no kind": (rewrite("config.json", hidden_act=[1]), "[1]"),
}
DAMAGED: dict[str, tuple[Change, str]] = {
    "no list": (lambda encoder: write_json(encoder / "modules.json", {"a": 1}), "modules.json"),
    "no types": (lambda encoder: write_json(encoder / "modules.json", [{}]), "modules.json"),
    "no json": (lambda encoder: (encoder / "modules.json").write_text("["), "modules.json"),
    "a folder elsewhere": (folder("../other"), "../other"),
    "a folder of no kind": (folder(["1_Pooling"]), "1_Pooling"),
    "a folder that is not there": (folder("2_Pooling"), "2_Pooling"),
    "nothing pooled": (
        rewrite("1_Pooling/config.json", pooling_mode_mean_tokens=False),
        "no pooling",
    ),
    "a prompt without text": (
        rewrite("config_sentence_transformers.json", default_prompt_name="query"),
        "query",
    ),
    "a dense layer of another width": (
        dense(in_features=32),
        "takes vectors of 32 numbers, but what comes before it gives 64",
    ),
    "a dense layer without settings": (
        lambda encoder: (dense()(encoder), (encoder / "2_Dense" / "config.json").unlink()),
        "2_Dense/config.json",
    ),
    "a dense layer that is a pickle": (
        lambda encoder: (
            dense()(encoder),
            (encoder / "2_Dense" / "model.safetensors").rename(
                encoder / "2_Dense" / "pytorch_model.bin"
            ),
        ),
        "never loaded",
    ),
    "a dense layer of more outputs": (
        lambda encoder: (
            dense()(encoder),
            rewrite("2_Dense/config.json", out_features=48)(encoder),
        ),
        "shape",
    ),
    "a limit of nothing": (
        rewrite("sentence_bert_config.json", max_seq_length=0),
        "max_seq_length",
    ),
    "heads that do not divide": (rewrite("config.json", num_attention_heads=5), "heads"),
    "no heads": (rewrite("config.json", num_attention_heads=0), "heads"),
    "another width": (rewrite("config.json", hidden_size=32), "shape"),
    "more positions": (rewrite("config.json", max_position_embeddings=CONTEXT + 1), "shape"),
    "another vocabulary": (rewrite("config.json", vocab_size=400), "shape"),
    "lengths that are none": (
        rewrite("config.json", matryoshka_dimensions=[32, 0]),
        "matryoshka_dimensions [32, 0]",
    ),
    "lengths of no kind": (rewrite("config.json", matryoshka_dimensions=32), "_dimensions 32"),
    "prompts that are none": (
        rewrite("config_sentence_transformers.json", prompts={"query": 3}),
        "a text to each name",
    ),
    "a window of one token": (
        rewrite("config.json", model_type="modernbert", local_attention=1),
        "local_attention 1",
    ),
    "a kind of each layer": (
        rewrite("config.json", model_type="modernbert", layer_types=["full_attention"]),
        "layer_types",
    ),
    "fewer tokens": (rewrite("config.json", vocab_size=30), "vocab_size is 30"),
    "more layers": (rewrite("config.json", num_hidden_layers=3), "layer.2"),
}


@pytest.mark.parametrize("kind", [*UNSUPPORTED, *DAMAGED])
def test_what_is_refused(
    kind: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, named = {**UNSUPPORTED, **DAMAGED}[kind]
    change(encoder)
    out = tmp_path / "out"
    assert main(["--model", str(encoder), "--out", str(out), "--precision", "fp32"]) == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert named in said
    assert not out.exists()
    if kind in UNSUPPORTED:
        with pytest.raises(UnsupportedModel):
            open_embedder(encoder)


def test_a_classifier_is_refused(make_encoder: MakeEncoder) -> None:
    checkpoint = make_encoder(modules=None, head="AutoModelForSequenceClassification")
    with pytest.raises(UnsupportedModel, match="BertForSequenceClassification classifies"):
        open_embedder(checkpoint)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(
    file=st.sampled_from(
        [
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
            "config_sentence_transformers.json",
        ]
    ),
    key=st.sampled_from(
        ["pooling_mode", "max_seq_length", "do_lower_case", "prompts", "default_prompt_name"]
    ),
    value=JSON,
    whole=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_strange_settings_are_refused_in_one_line(
    file: str, key: str, value: object, whole: bool, a_checkpoint: Path
) -> None:
    path = a_checkpoint / file
    before = path.read_bytes() if path.is_file() else None
    said = ""
    try:
        write_json(path, value if whole else {key: value})
        open_embedder(a_checkpoint).tokenizer()
    except (CheckpointError, UnsupportedModel) as error:
        said = str(error)
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert len(said.splitlines()) <= 1


@pytest.fixture(scope="module")
def a_checkpoint(make_encoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(make_encoder(), tmp_path_factory.mktemp("changed"))
