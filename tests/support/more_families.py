"""What ``transformers`` does not know of itself, or not as language models.

Ministral 3 is Mistral with other queries. Models that also see are made of one that does not.
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
    for model in (
        mistral3.Mistral3ForConditionalGeneration,
        qwen2_vl.Qwen2VLForConditionalGeneration,
        qwen2_5_vl.Qwen2_5_VLForConditionalGeneration,
        qwen3_vl.Qwen3VLForConditionalGeneration,
    ):
        AutoModelForCausalLM.register(model.config_class, model)


def _growth(rope: dict[str, Any], queries: Any) -> Any:
    import torch

    positions = torch.arange(queries.shape[1]) / rope["original_max_position_embeddings"]
    return 1 + rope["llama_4_scaling_beta"] * torch.log(1 + torch.floor(positions))[:, None]
