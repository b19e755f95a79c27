"""What each subcommand measures."""

from __future__ import annotations

import argparse
from importlib import resources

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rbee_bench import quick
from rbee_bench.agreement import CAPACITY
from rbee_bench.arrivals import Arrivals, measure_arrivals
from rbee_bench.batch import Batch, batch_specs, measure_batch
from rbee_bench.chats import Chats, measure_chats
from rbee_bench.cold import Cold, measure_cold
from rbee_bench.decode import Decode, decode_specs, measure_decode
from rbee_bench.embed import Embed, measure_embed
from rbee_bench.encoder_subject import EncoderSubject
from rbee_bench.faults import Faults, Model, measure_faults
from rbee_bench.fidelity import Fidelity, measure_fidelity
from rbee_bench.gate import Gate, measure_gate
from rbee_bench.hostile import Hostile, measure_hostile
from rbee_bench.large import CASES, Large, measure_large
from rbee_bench.limits import Limits, measure_limits
from rbee_bench.load import Load, measure_load
from rbee_bench.logprobs import Logprobs, measure_logprobs
from rbee_bench.machine import Machine
from rbee_bench.parity import Parity, measure_parity
from rbee_bench.prefill import Prefill, measure_prefill, prefill_specs
from rbee_bench.proof import Proof, prove_gate
from rbee_bench.quick import Quick, measure_quick
from rbee_bench.servers import ServerSpec, llama_server, python_server, vllm_server, worker
from rbee_bench.serving import Serving, measure_serving
from rbee_bench.speculation import Speculation, measure_speculation
from rbee_bench.start import Start, measure_start
from rbee_bench.streaming import Streaming, measure_streaming
from rbee_bench.structured import Structured, measure_structured
from rbee_bench.subject import Progress as OnProgress
from rbee_bench.subject import Subject

_SERVER_CONTEXT = 2048

Result = (
    Parity
    | Fidelity
    | Decode
    | Prefill
    | Batch
    | Embed
    | Serving
    | Start
    | Large
    | Limits
    | Gate
    | Proof
    | Arrivals
    | Chats
    | Cold
    | Quick
    | Streaming
    | Logprobs
    | Speculation
    | Structured
    | Load
    | Hostile
    | Faults
)


def measure(arguments: argparse.Namespace, machine: Machine, console: Console) -> Result:
    """Measure what the arguments say, with a progress bar on the console."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # Drawn when something moves: a thread that redraws would take time from what is measured.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("reading", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None, refresh=True)

        match arguments.command:
            case "large":
                cases = [case for case in CASES if arguments.precision in (None, case.precision)]
                return measure_large(arguments.directory, arguments.gigabytes, cases, progress)
            case "limits":
                return measure_limits(machine.cores, progress)
            case "gate":
                return _gate(arguments, machine.cores, progress)
            case "embed":
                return measure_embed(
                    EncoderSubject.open(arguments.model, arguments.artifacts, machine.cores),
                    texts=arguments.texts,
                    rounds=arguments.rounds,
                    progress=progress,
                )
        cache_type = getattr(arguments, "cache_type", None)
        subject = Subject.open(arguments.model, arguments.artifacts, machine.cores, cache_type)
        match arguments.command:
            case "parity":
                return measure_parity(subject, arguments.prompts, arguments.tokens, progress)
            case "fidelity":
                text = _built_in_text() if arguments.text is None else arguments.text.read_text()
                return measure_fidelity(subject, text, arguments.tokens, progress)
            case "decode":
                return _decode(subject, arguments, progress)
            case "prefill":
                return _prefill(subject, arguments, progress)
            case "batch":
                return _batch(subject, arguments, progress)
            case "serving":
                artifact = subject.artifact(arguments.precision, progress)
                ids = subject.tokenizer(progress).encode(_built_in_text())
                return measure_serving(artifact, ids, arguments.rounds, progress)
            case "arrivals":
                return measure_arrivals(
                    _servers(subject, progress, keep_prompts=False),
                    _built_in_text(),
                    rates=arguments.rates,
                    requests=arguments.requests,
                    rounds=arguments.rounds,
                    barred=_ends(subject, progress),
                    progress=progress,
                )
            case "chats":
                return measure_chats(
                    _servers(subject, progress, keep_prompts=True),
                    _built_in_text(),
                    chats=arguments.chats,
                    rounds=arguments.rounds,
                    barred=_ends(subject, progress),
                    progress=progress,
                )
            case "cold":
                return measure_cold(
                    subject,
                    _servers(subject, progress, keep_prompts=False),
                    subject.tokenizer(progress).encode(_built_in_text()),
                    arguments.rounds,
                    progress,
                    convert=arguments.convert,
                )
            case "quick":
                return measure_quick(
                    subject,
                    batch_specs(subject, quick.CAPACITY, quick.SEQUENCES, progress, alone=False),
                    _servers(subject, progress, keep_prompts=False),
                    subject.tokenizer(progress).encode(_built_in_text()),
                    _built_in_text(),
                    barred=_ends(subject, progress),
                    progress=progress,
                )
            case "streaming":
                artifact = subject.artifact(arguments.precision, progress)
                return measure_streaming(artifact, arguments.tokens, arguments.rounds, progress)
            case "logprobs":
                artifact = subject.artifact(arguments.precision, progress)
                return measure_logprobs(artifact, arguments.tokens, arguments.rounds, progress)
            case "speculation":
                artifact = subject.artifact(arguments.precision, progress)
                asked = arguments.tokens, arguments.rounds, arguments.temperature
                return measure_speculation(artifact, *asked, progress)
            case "structured":
                artifact = subject.artifact(arguments.precision, progress)
                return measure_structured(artifact, arguments.tokens, arguments.rounds, progress)
            case "load":
                artifact = subject.artifact("int4", progress)
                streams, slots, seconds = arguments.streams, arguments.slots, arguments.seconds
                return measure_load(artifact, streams, slots, seconds, progress)
            case "hostile":
                artifact = subject.artifact("int4", progress)
                return measure_hostile(artifact, arguments.requests, progress)
            case "faults":
                artifact = subject.artifact("int4", progress)
                return measure_faults(Model(artifact.path, subject.gguf), progress)
            case _:
                return measure_start(subject.artifact("gguf", progress), arguments.rounds, progress)


def _gate(arguments: argparse.Namespace, threads: int, progress: OnProgress) -> Gate | Proof:
    model = None if arguments.quick else arguments.model
    base, percent = arguments.base, arguments.slowdown
    if arguments.prove is not None:
        slowdown = (10.0 if percent is None else percent) / 100
        times = arguments.prove
        return prove_gate(base, model, threads, progress, slowdown=slowdown, times=times)
    slowdown = (percent or 0.0) / 100
    return measure_gate(base, model, threads, progress, slowdown, counts_only=arguments.count)


def _servers(subject: Subject, progress: OnProgress, *, keep_prompts: bool) -> list[ServerSpec]:
    context, threads = _SERVER_CONTEXT, subject.threads
    gguf = subject.artifact("gguf", progress)
    return [
        worker("int4", subject.artifact("int4", progress).path),
        worker("gguf", gguf.path),
        llama_server(subject.gguf, context, threads, slots=16),
        python_server(subject.gguf, context, threads, keep_prompts=keep_prompts),
        vllm_server(
            subject.gguf, gguf, subject.workspace, context=context, threads=threads, slots=16
        ),
    ]


def _ends(subject: Subject, progress: OnProgress) -> list[int]:
    return list(subject.artifact("gguf", progress).manifest.eos_token_ids)


def _decode(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Decode:
    contexts, tokens = arguments.context, arguments.tokens
    specs = decode_specs(subject, max(CAPACITY, max(contexts) + tokens), progress)
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_decode(
        specs,
        ids,
        contexts=contexts,
        tokens=tokens,
        rounds=arguments.rounds,
        threads=subject.threads,
        progress=progress,
    )


def _prefill(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Prefill:
    specs = prefill_specs(subject, max(CAPACITY, *arguments.lengths) + 1, progress)
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_prefill(
        specs,
        ids,
        lengths=arguments.lengths,
        rounds=arguments.rounds,
        threads=subject.threads,
        progress=progress,
    )


def _batch(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Batch:
    context, tokens = arguments.context, arguments.tokens
    capacity = max(CAPACITY, context + tokens)
    specs = {
        sequences: batch_specs(subject, capacity, sequences, progress, alone=True)
        for sequences in arguments.sequences
    }
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_batch(
        specs,
        ids,
        context=context,
        tokens=tokens,
        rounds=arguments.rounds,
        threads=subject.threads,
        progress=progress,
    )


def _built_in_text() -> str:
    return resources.files("rbee_bench").joinpath("text.txt").read_text(encoding="utf-8")
