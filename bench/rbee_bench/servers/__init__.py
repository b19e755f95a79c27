"""Servers of the OpenAI API, each in a process of its own, and one client for all of them."""

from rbee_bench.servers.client import Answer, Question, ask
from rbee_bench.servers.process import ServerFault, ServerProcess
from rbee_bench.servers.spec import ServerSpec, llama_server, python_server, worker
from rbee_bench.servers.vllm import vllm_server

__all__ = [
    "Answer",
    "Question",
    "ServerFault",
    "ServerProcess",
    "ServerSpec",
    "ask",
    "llama_server",
    "python_server",
    "vllm_server",
    "worker",
]
