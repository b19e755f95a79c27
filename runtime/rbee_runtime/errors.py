"""What can go wrong in the runtime, one class per thing a caller can do about it.

Every message is one line that names the cause and, where there is one, the fix; callers print it
as it is.
"""

from __future__ import annotations


class RuntimeFault(Exception):
    """Base of every error this package raises on purpose."""


class ArtifactError(RuntimeFault):
    """The artifact is missing, damaged, or of a version this runtime does not read."""


class DeviceError(RuntimeFault):
    """The backend cannot run on the device that was asked for."""


class InvalidSetting(RuntimeFault):
    """What the engine was to be loaded with is out of its range, or a name that is not known."""


class InvalidRequest(RuntimeFault):
    """The request can never be served as it stands.

    Attributes:
        field: The request field at fault, e.g. ``"max_tokens"``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ContextOverflow(InvalidRequest):
    """Prompt and ``max_tokens`` together exceed the context length.

    Attributes:
        prompt_tokens: Length of the encoded prompt.
        max_tokens: New tokens asked for.
        context_length: Positions a slot holds.
    """

    def __init__(self, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
        super().__init__(
            "prompt",
            f"prompt ({prompt_tokens} tokens) + max_tokens ({max_tokens}) = "
            f"{prompt_tokens + max_tokens} exceeds the context length of {context_length}",
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length


class InputTooLong(ContextOverflow):
    """A text that is read whole exceeds the context length.

    Attributes:
        prompt_tokens: Its length.
        context_length: Tokens of a text at most, special ones included.
    """

    def __init__(
        self, name: str, tokens: int, context_length: int, remedy: str = "embed it in parts"
    ) -> None:
        InvalidRequest.__init__(
            self,
            name,
            f"{name} has {tokens} tokens, more than the context length of {context_length}; "
            f"{remedy}",
        )
        self.prompt_tokens = tokens
        self.max_tokens = 0
        self.context_length = context_length


class QueueFull(RuntimeFault):
    """Every slot is taken and the waiting line is at its limit; try again later."""


class OutOfMemory(RuntimeFault):
    """The device could not provide the memory for a step; the request that needed it ends."""


class InferenceFailed(RuntimeFault):
    """A step failed in the execution provider for a reason other than memory."""


class DeviceLost(RuntimeFault):
    """The device has failed for good: no step will run on it again in this process."""


class DeadlineExceeded(RuntimeFault):
    """The request's deadline passed before its completion did."""


class EngineClosed(RuntimeFault):
    """The engine has been closed, or its thread has died, and takes no more requests."""
