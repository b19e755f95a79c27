"""An environment with a ``vllm`` program whose engine counts, and whose server echoes.

The module itself stands for the package ``vllm`` there: each token is the one before it, plus one.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = "9.9"

_SERVER = """
import runpy, subprocess, sys

started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
port = sys.argv[sys.argv.index("--port") + 1]
sys.argv[1:] = [port, "right"]
runpy.run_path({path!r}, run_name="__main__")
"""


class SamplingParams:
    def __init__(self, **settings: Any) -> None:
        self.tokens: int = settings.pop("max_tokens")
        assert settings == {"temperature": 0.0, "ignore_eos": True, "detokenize": False}


class LLM:
    def __init__(self, model: str, load_format: str = "auto", **settings: Any) -> None:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        assert (Path(model) / "config.json").is_file()
        assert load_format == "dummy" or list(Path(model).glob("*.safetensors"))
        assert settings["enable_prefix_caching"] is False
        assert settings["kv_cache_memory_bytes"] > 0
        dtype = type("Dtype", (), {"itemsize": 2, "__str__": lambda _: "torch.bfloat16"})()
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(dtype=dtype),
            device_config=SimpleNamespace(device_type="cpu"),
        )
        self.llm_engine = self
        self._longest = settings["max_model_len"]
        self._left: dict[str, list[int]] = {}
        self._found: dict[str, list[int]] = {}

    def add_request(self, name: str, prompt: dict[str, list[int]], params: SamplingParams) -> None:
        ids = prompt["prompt_token_ids"]
        if len(ids) + params.tokens > self._longest:
            raise ValueError(f"request {name} is longer than {self._longest}")
        self._left[name] = [ids[-1] + 1 + number for number in range(params.tokens)]
        self._found[name] = []

    def has_unfinished_requests(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Any]:
        outputs = []
        for name, left in list(self._left.items()):
            found = self._found[name]
            found.append(left.pop(0))
            if not left:
                del self._left[name]
            tokens = SimpleNamespace(token_ids=found)
            outputs.append(SimpleNamespace(request_id=name, outputs=[tokens], finished=not left))
        return outputs

    def generate(self, prompts: list[Any], params: SamplingParams, *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        for number, prompt in enumerate(prompts):
            self.add_request(str(number), prompt, params)
        while self.has_unfinished_requests():
            outputs = self.step()
        return outputs


def make_environment(directory: Path) -> Path:
    """Make an environment with vllm and NumPy, and nothing else; return where its programs are."""
    import numpy as np

    from support import openai_stand_in

    packages, programs = directory / "packages", directory / "bin"
    served = packages / "vllm" / "entrypoints" / "openai"
    served.mkdir(parents=True)
    shutil.copy(__file__, packages / "vllm" / "__init__.py")
    server = _SERVER.format(path=str(openai_stand_in.__file__))
    (served / "api_server.py").write_text(server)
    for installed in Path(np.__file__).parents[1].glob("numpy*"):
        (packages / installed.name).symlink_to(installed)
    programs.mkdir()
    python = f'PYTHONPATH="{packages}" exec "{sys.executable}" -S "$@"'
    _write_program(programs / "python3", f"#!/bin/sh\n{python}\n")
    _write_program(programs / "vllm", f"#!{programs / 'python3'}\n")
    return programs


def _write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)
