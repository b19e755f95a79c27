"""What ``transformers`` does not know of itself, or not as language models.

Ministral 3 is Mistral with other queries, LFM2-MoE is LFM2 with experts. Models that also see are
made of one that does not.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def know_more_families() -> None:
    """Have ``transformers`` make and open ``ministral3``, and models that also see.

    Its queries are those of ``Ministral3Attention`` in ``transformers`` 5, where they are scaled
    after they are rotated, which comes to the same.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models import mistral3, qwen2_5_vl, qwen2_vl, qwen3_vl
    from transformers.models.mistral import modeling_mistral as mistral

    class Ministral3Config(mistral.MistralConfig):  # type: ignore[misc]
        model_type = "ministral3"

    class Ministral3Model(mistral.MistralModel):  # type: ignore[misc]
        config_class = Ministral3Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for layer in self.layers:
                layer.self_attn.q_proj.register_forward_hook(
                    lambda _, __, queries: queries * _growth(config.rope_scaling, queries)
                )

    class Ministral3ForCausalLM(mistral.MistralForCausalLM):  # type: ignore[misc]
        config_class = Ministral3Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = Ministral3Model(config)

    AutoConfig.register("ministral3", Ministral3Config)
    AutoModel.register(Ministral3Config, Ministral3Model)
    AutoModelForCausalLM.register(Ministral3Config, Ministral3ForCausalLM)
    _know_lfm2_moe()
    for model in (
        mistral3.Mistral3ForConditionalGeneration,
        qwen2_vl.Qwen2VLForConditionalGeneration,
        qwen2_5_vl.Qwen2_5_VLForConditionalGeneration,
        qwen3_vl.Qwen3VLForConditionalGeneration,
    ):
        AutoModelForCausalLM.register(model.config_class, model)


def _know_lfm2_moe() -> None:
    """Have it make and open ``lfm2_moe``, whose experts are those of ``transformers`` 5."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models.lfm2 import modeling_lfm2 as lfm2

    class Lfm2MoeConfig(lfm2.Lfm2Config):  # type: ignore[misc]
        model_type = "lfm2_moe"

    class Expert(nn.Module):
        def __init__(self, hidden: int, width: int) -> None:
            super().__init__()
            self.w1, self.w3 = (nn.Linear(hidden, width, bias=False) for _ in range(2))
            self.w2 = nn.Linear(width, hidden, bias=False)

        def forward(self, x: Any) -> Any:
            return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))

    class Experts(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            hidden, count = config.hidden_size, config.num_experts
            self.config = config
            self.gate = nn.Linear(hidden, count, bias=False)
            width = config.moe_intermediate_size
            self.experts = nn.ModuleList(Expert(hidden, width) for _ in range(count))
            self.expert_bias = nn.Parameter(torch.zeros(count))

        def forward(self, x: Any) -> Any:
            p = self.gate(x).sigmoid()
            chosen = torch.topk(p + self.expert_bias, self.config.num_experts_per_tok).indices
            shares = torch.zeros_like(p).scatter(-1, chosen, p.gather(-1, chosen))
            if getattr(self.config, "norm_topk_prob", True):
                shares = shares / (shares.sum(-1, keepdim=True) + 1e-6)
            return sum(
                share * expert(x)
                for share, expert in zip(shares.split(1, -1), self.experts, strict=True)
            )

    class Lfm2MoeModel(lfm2.Lfm2Model):  # type: ignore[misc]
        config_class = Lfm2MoeConfig

        def __init__(self, config: Any) -> None:
            # What other MLPs are wide is said as it is.
            config.block_auto_adjust_ff_dim = False
            super().__init__(config)
            for layer in self.layers[config.num_dense_layers :]:
                layer.feed_forward = Experts(config)
            self.post_init()

    class Lfm2MoeForCausalLM(lfm2.Lfm2ForCausalLM):  # type: ignore[misc]
        config_class = Lfm2MoeConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = Lfm2MoeModel(config)
            self.post_init()

    AutoConfig.register("lfm2_moe", Lfm2MoeConfig)
    AutoModel.register(Lfm2MoeConfig, Lfm2MoeModel)
    AutoModelForCausalLM.register(Lfm2MoeConfig, Lfm2MoeForCausalLM)


def _growth(rope: dict[str, Any], queries: Any) -> Any:
    import torch

    positions = torch.arange(queries.shape[1]) / rope["original_max_position_embeddings"]
    return 1 + rope["llama_4_scaling_beta"] * torch.log(1 + torch.floor(positions))[:, None]
