"""Are greedy completions the ones transformers gives, token for token?"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_bench.peers import PeerProcess, require_eager
from rbee_bench.subject import Progress, Subject


@dataclass(frozen=True, slots=True)
class Parity:
    """The completions of ours at fp32 beside the reference's.

    Attributes:
        ours: Version of ours.
        reference: Version of the reference.
        tokens: Tokens a completion.
        agreed: For each prompt, how many tokens were equal before the first that was not.
    """

    ours: str
    reference: str
    tokens: int
    agreed: tuple[int, ...]

    @property
    def equal(self) -> int:
        """Prompts whose completions are the same throughout."""
        return sum(agreed == self.tokens for agreed in self.agreed)


def measure_parity(subject: Subject, prompts: int, tokens: int, progress: Progress) -> Parity:
    """Complete the first ``prompts`` of :data:`PROMPTS` on both.

    Raises:
        PeerFault: One of the two cannot run here.
    """
    require_eager()
    tokenizer = subject.tokenizer(progress)
    encoded = [tokenizer.encode(prompt) for prompt in PROMPTS[:prompts]]
    capacity = max(map(len, encoded)) + tokens
    ours = subject.compiled("fp32", progress)
    reference = subject.peer("eager", capacity)
    agreed = []
    progress(f"opening {reference.label}", 0, 0)
    with PeerProcess(ours) as one, PeerProcess(reference) as other:
        for number, prompt in enumerate(encoded):
            progress("prompts", number, len(encoded))
            pairs = zip(one.complete(prompt, tokens), other.complete(prompt, tokens), strict=True)
            agreed.append(next((i for i, (a, b) in enumerate(pairs) if a != b), tokens))
        return Parity(one.version, other.version, tokens, tuple(agreed))


PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "What is the difference between a lake and a pond?",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "Dear Ms. Okafor,\n\nThank you for your letter of",
    "1, 1, 2, 3, 5, 8,",
    "The three most important rules of gardening are:\n1.",
    "SELECT name, COUNT(*) FROM orders",
    "Il était une fois, dans un petit village,",
    "Q: Why do leaves change colour in autumn?\nA:",
    "In the beginning there was only darkness, and then",
    "<|im_start|>user\nName a fruit that is yellow.<|im_end|>\n<|im_start|>assistant\n",
    '{"name": "Ada", "age": 36, "languages": [',
    "To make a good cup of tea, first",
    "The weather in the mountains can change quickly, so hikers should always",
    "#include <stdio.h>\n\nint main(void) {",
    "My favourite emoji is 🙂 because",
    "Theorem. The square root of two is irrational.\n\nProof. Suppose that",
    "She opened the letter, read it twice, and said:",
)
"""Questions, stories, lists, letters, code, other languages: places where models go wrong."""
