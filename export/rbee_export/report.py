"""What an artifact is, for people: tables on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbee_runtime.artifact import (
    Artifact,
    EmbedderManifest,
    EmbeddingFidelity,
    Fidelity,
    Manifest,
    RankingFidelity,
    RerankerManifest,
    Shapes,
    TextManifest,
)
from rbee_runtime.units import human_size

if TYPE_CHECKING:
    from rbee_runtime.artifact import AnyArtifact

_POOLINGS = {"mean": "mean of all tokens", "cls": "first token", "last": "last token"}


def describe(artifact: AnyArtifact) -> RenderableType:
    """Return the whole of an artifact: shapes, weights by group, engines, fidelity."""
    manifest = artifact.manifest
    parts: list[RenderableType] = [_summary(artifact)]
    if manifest.weights:
        parts.append(_weights(manifest))
    if isinstance(manifest, Manifest) and manifest.engines:
        parts.append(_engines(manifest))
    parts.append(
        Text("fidelity: not measured")
        if manifest.fidelity is None
        else fidelity_table(manifest.fidelity)
    )
    return Group(*parts)


def fidelity_table(fidelity: Fidelity | EmbeddingFidelity | RankingFidelity) -> Table:
    """Return a fidelity report."""
    if isinstance(fidelity, EmbeddingFidelity):
        return _embedding_fidelity(fidelity)
    if isinstance(fidelity, RankingFidelity):
        return _ranking_fidelity(fidelity)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("KL divergence", "same top token", "perplexity", "reference", "text"):
        table.add_column(heading, justify="left" if heading == "text" else "right", overflow="fold")
    reference = fidelity.reference_perplexity
    change = fidelity.perplexity / reference - 1 if reference else math.inf
    table.add_row(
        f"{fidelity.divergence:.4f} nats",
        f"{fidelity.agreement:.1%}",
        f"{fidelity.perplexity:.2f} ({change:+z.2%})",
        f"{reference:.2f}",
        _cell(f"{fidelity.text}, {fidelity.tokens} tokens"),
    )
    return table


def _embedding_fidelity(fidelity: EmbeddingFidelity) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("mean cosine", "least cosine", "same neighbour", "text"):
        table.add_column(heading, justify="left" if heading == "text" else "right", overflow="fold")
    table.add_row(
        f"{fidelity.mean_cosine:.5f}",
        f"{fidelity.least_cosine:.5f}",
        f"{fidelity.agreement:.1%}",
        _cell(f"{fidelity.text}, {fidelity.texts} texts of {fidelity.tokens} tokens"),
    )
    return table


def _ranking_fidelity(fidelity: RankingFidelity) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("mean difference", "largest", "same order", "text"):
        table.add_column(heading, justify="left" if heading == "text" else "right")
    table.add_row(
        f"{fidelity.mean_difference:.5f}",
        f"{fidelity.largest_difference:.5f}",
        f"{fidelity.agreement:.1%}",
        _cell(
            f"{fidelity.text}, {fidelity.queries} queries, {fidelity.pairs} pairs of "
            f"{fidelity.tokens} tokens"
        ),
    )
    return table


def printable(text: str) -> str:
    """Return text that a stranger may have written, with nothing in it that terminals obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _cell(text: str) -> Text:
    return Text(printable(text))


def _summary(artifact: AnyArtifact) -> Table:
    manifest = artifact.manifest
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "artifact": f"{artifact.path}, {human_size(sum(f.size for f in manifest.files))}",
        "source": f"{manifest.source.name} ({manifest.source.format}), "
        f"sha256 {manifest.source.sha256[:12]}…",
        "model": manifest.model_ref,
        "made by": manifest.exporter,
        **(
            _generates(artifact.manifest, half_cache=artifact.half_cache_graph is not None)
            if isinstance(artifact, Artifact)
            else _reads_texts(artifact.manifest)
        ),
    }
    for name, content in rows.items():
        table.add_row(name, _cell(content))
    return table


def _generates(manifest: Manifest, *, half_cache: bool) -> dict[str, str]:
    """Return what is told of a language model."""
    shapes, cache = manifest.shapes, manifest.cache
    return {
        "family": f"{manifest.family}: {shapes.layers} layers, {shapes.hidden} wide, "
        f"{shapes.heads} heads over {shapes.kv_heads}, {shapes.vocab} tokens, "
        f"context {shapes.context_length}",
        **_experts(shapes),
        "precision": f"{manifest.precision} for {manifest.target}, dialect {manifest.dialect}",
        "cache": f"{human_size(cache.bytes_per_token)} a token, {cache.dtype}"
        + ("; half of that where the native kernels run" if half_cache else "")
        + (f"; {human_size(cache.state_bytes)} a sequence besides" if cache.state else ""),
    }


def _experts(shapes: Shapes) -> dict[str, str]:
    experts = shapes.experts
    if experts is None:
        return {}
    where = f"{experts.layers} of {shapes.layers} layers"
    if experts.layers == shapes.layers:
        where = "every layer"
    told = f"{experts.count} in {where}, {experts.intermediate} wide; a token gets {experts.active}"
    return {"experts": told}


def _reads_texts(manifest: EmbedderManifest | RerankerManifest) -> dict[str, str]:
    """Return what is told of a model that reads whole texts."""
    shapes, ranks = manifest.shapes, isinstance(manifest, RerankerManifest)
    shared = f" over {shapes.kv_heads}" if shapes.kv_heads else ""
    return {
        "family": f"{manifest.family}: {shapes.layers} layers, {shapes.hidden} wide, "
        f"{shapes.heads} heads{shared}, {shapes.vocab} tokens, "
        f"{'pairs' if ranks else 'texts'} of {shapes.context_length} at most",
        "precision": f"{manifest.precision} for {manifest.target}, dialect {manifest.dialect}",
        **(_scores(manifest) if isinstance(manifest, RerankerManifest) else _embeds(manifest)),
    }


def _scores(manifest: RerankerManifest) -> dict[str, str]:
    scoring = manifest.scoring
    whence = _POOLINGS[scoring.pooling]
    last = "through a sigmoid" if scoring.activation == "sigmoid" else "as it is"
    return {"reranker": f"a score of a query and a document, of the {whence}, {last}"}


def _embeds(manifest: EmbedderManifest) -> dict[str, str]:
    embedding = manifest.embedding
    told = {
        "embedding": f"{embedding.dim} numbers, by {_POOLINGS[embedding.pooling]}"
        + (", of length 1" if embedding.normalized else ""),
    }
    if embedding.prompt:
        told["prompt"] = embedding.prompt
    if embedding.prompts:
        told["prompts"] = ", ".join(f"{name}: {text!r}" for name, text in embedding.prompts.items())
    return told


def _weights(manifest: Manifest | TextManifest) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("weights", "stored as", "held as"):
        table.add_column(heading, overflow="fold")
    table.add_column("count", justify="right", overflow="fold")
    table.add_column("size", justify="right", overflow="fold")
    for group in manifest.weights:
        table.add_row(
            *(_cell(text) for text in (group.name, group.source, group.held)),
            str(group.count),
            human_size(group.nbytes),
        )
    return table


def _engines(manifest: Manifest) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("engine", "for", "library", "batch", "positions"):
        table.add_column(heading, overflow="fold")
    for engine in manifest.engines:
        table.add_row(
            _cell(engine.path),
            _cell(engine.architecture),
            _cell(f"{engine.library} {engine.version}"),
            f"up to {engine.max_batch}",
            str(engine.max_length),
        )
    return table
