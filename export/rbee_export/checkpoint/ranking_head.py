"""How ``transformers`` makes one number of what an encoder makes of a pair of texts, and names it.

That is its ``...ForSequenceClassification`` with one label: of each family, the layers between the
vector of the first token, or the mean of all, and the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rbee_export.checkpoint.encoder_config import EncoderConfig
from rbee_export.checkpoint.encoder_families import GATED
from rbee_export.checkpoint.pooling import Dense, LayerNorm, SentencePooling, VectorActivation
from rbee_export.errors import UnsupportedModel, shown

CLASSIFIER = "ForSequenceClassification"
"""What the names of such architectures end with."""

ScoreActivation = Literal["sigmoid", "identity"]


@dataclass(frozen=True, slots=True)
class RankingHead:
    """The layers of one family: a square one, and the one that gives the score.

    Attributes:
        dense: What names of the first one's weights begin with.
        score: What those of the second's begin with.
        activation: What comes after the first.
        norm: What names of a norm's weights begin with that comes after that, if any.
    """

    dense: str
    score: str = "classifier"
    activation: VectorActivation = "tanh"
    norm: str | None = None


_ROBERTA = RankingHead("classifier.dense", "classifier.out_proj")
HEADS: Mapping[str, RankingHead] = MappingProxyType(
    {
        "bert": RankingHead("bert.pooler.dense"),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "camembert": _ROBERTA,
        "mpnet": _ROBERTA,
        "distilbert": RankingHead("pre_classifier", activation="relu"),
        "modernbert": RankingHead("head.dense", activation="gelu", norm="head.norm"),
    }
)
"""By ``model_type``."""


def read_head(
    file: Path, settings: Mapping[str, Any], c: EncoderConfig, score: ScoreActivation
) -> SentencePooling:
    """Return what becomes of the encoder's vectors.

    Args:
        file: The ``config.json``.
        settings: Its content.
        c: What it says of the encoder, which is one of :data:`HEADS`.
        score: What the last number goes through.

    Raises:
        UnsupportedModel: It asks for what is not known here.
    """
    head, folder = HEADS[c.family], file.parent
    kind, activation, bias, norm = "cls", head.activation, True, None
    if head.norm is not None:
        kind = settings.get("classifier_pooling", "cls")
        if kind not in ("cls", "mean"):
            raise UnsupportedModel(f"{file}: classifier_pooling {shown(kind)} is not supported")
        act = settings.get("classifier_activation", activation)
        if not isinstance(act, str) or act not in GATED:
            raise UnsupportedModel(f"{file}: classifier_activation {shown(act)} is not supported")
        activation, bias = GATED[act], bool(settings.get("classifier_bias"))
        norm = LayerNorm(head.norm, c.norm_epsilon, c.norm_bias)
    return SentencePooling(
        "mean" if kind == "mean" else "cls",
        layers=(
            Dense(folder, c.hidden, c.hidden, bias, activation, head.dense, norm),
            Dense(folder, c.hidden, 1, activation=score, stem=head.score),
        ),
        output="scores",
    )
