"""The real model: at fp32 as ``transformers`` computes it, with its own blocks close to that."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from support.makers import MakeArtifact, OpenOnce
from support.running import forced_logits, greedy, mean_divergence, open_cpu
from support.tiny_llama import reference_logits
from tokenizers import Tokenizer

from rbee_export.checkpoint.gguf_file import GgufCheckpoint
from rbee_runtime.artifact import Artifact

PROMPTS = (
    "The capital of France is",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def prompts(sample_gguf: Path, open_once: OpenOnce) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(open_once(sample_gguf).tokenizer().tokenizer_json)
    return [tokenizer.encode(text).ids for text in PROMPTS]


@pytest.fixture(scope="module")
def reference(sample_gguf: Path, open_once: OpenOnce) -> Any:
    """The model as ``transformers`` runs it, its weights dequantised here."""
    import torch
    import transformers
    from transformers.modeling_utils import no_init_weights

    checkpoint = cast(GgufCheckpoint, open_once(sample_gguf))
    fields = checkpoint.fields
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=fields["llama.rope.freq_base"],
        tie_word_embeddings=True,
    )
    with no_init_weights():
        model = transformers.LlamaForCausalLM(config)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for i, (theirs, stored) in itertools.product(range(30), parts.items()):
        names[f"model.layers.{i}.{theirs}.weight"] = f"blk.{i}.{stored}.weight"
    assert set(names.values()) == set(checkpoint.tensors)
    with torch.no_grad():
        for name, stored in names.items():
            tensor = checkpoint.tensors[stored]
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            for projection, heads in (("q_proj", 9), ("k_proj", 3)):
                if projection in name:
                    weight = halves_apart(weight, heads)
            model.get_parameter(name).copy_(torch.tensor(weight))
    model.tie_weights()
    return model.eval()


def halves_apart(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's interleaving of the halves of a head."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def test_greedy_tokens_and_logits_equal_transformers(
    prompts: list[list[int]], reference: Any, sample_gguf: Path, make_artifact: MakeArtifact
) -> None:
    backend = open_cpu(make_artifact(sample_gguf, "fp32"))
    for prompt in prompts:
        completion = list(itertools.islice(greedy(backend, prompt), 32))
        theirs = reference_logits(reference, prompt + completion)[len(prompt) - 1 :]
        assert completion == theirs[:-1].argmax(-1).tolist()
        ours = forced_logits(backend, prompt + completion[:2], len(prompt))
        np.testing.assert_allclose(ours, theirs[:3], atol=2e-3)


def test_kept_blocks_stay_close_to_fp32(
    prompts: list[list[int]], reference: Any, sample_gguf: Path, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact(sample_gguf, "gguf")
    backend = open_cpu(artifact)
    ids = prompts[1] + list(itertools.islice(greedy(backend, prompts[1]), 32))
    ours = forced_logits(backend, ids, 1)
    theirs = reference_logits(reference, ids)
    assert mean_divergence(ours, theirs) < 0.02
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > 0.85
    # Blocks are of the same bits; only their scales and minima were widened.
    assert Artifact.open(artifact).weight_bytes < 1.25 * sample_gguf.stat().st_size
