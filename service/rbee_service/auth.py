"""The bearer token that guards the worker's routes."""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus
from typing import Literal, TypeAlias

from typing_extensions import TypedDict

KeyFault: TypeAlias = Literal["MISSING_API_KEY", "INVALID_API_KEY"]


class KeyFaultDetail(TypedDict):
    """What is wrong with the key that was sent."""

    code: KeyFault
    message: str


class UnauthorizedBody(TypedDict):
    """What a request without the right key is answered with."""

    error: KeyFaultDetail


class Unauthorized(Exception):
    """A protected route was asked for without the right token.

    Attributes:
        code: ``MISSING_API_KEY`` or ``INVALID_API_KEY``.
        status: HTTP status.
    """

    status = int(HTTPStatus.UNAUTHORIZED)

    def __init__(self, code: KeyFault, message: str) -> None:
        super().__init__(message)
        self.code = code

    def body(self) -> UnauthorizedBody:
        """Return the JSON body."""
        return {"error": {"code": self.code, "message": str(self)}}


class ApiToken:
    """A secret that shows itself only as a fingerprint.

    Args:
        secret: Visible ASCII characters.
    """

    __slots__ = ("_digest", "_secret")

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._digest = hashlib.sha256(secret.encode()).digest()

    def __repr__(self) -> str:
        return f"ApiToken({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """Six hex digits that tell tokens apart in a log."""
        return self._digest.hex()[:6]

    @property
    def header(self) -> str:
        """The ``Authorization`` header that presents the token."""
        return f"Bearer {self._secret}"

    def check(self, authorization: str | None, key: str | None = None) -> None:
        """Accept a request's ``Authorization`` header, or a header with nothing but the token.

        Args:
            authorization: The former, if there is one.
            key: The latter, likewise.

        Raises:
            Unauthorized: There is no token in either, or another one.
        """
        scheme, _, presented = (authorization or "").partition(" ")
        key = (key or "").strip()
        bearer = presented.strip() if scheme.lower() == "bearer" else ""
        shown = [one.encode("utf-8", "surrogateescape") for one in (bearer, key) if one]
        if not shown:
            raise Unauthorized("MISSING_API_KEY", "send the API key as: Authorization: Bearer KEY")
        # Comparing digests takes the same time whatever the two have in common, length included.
        digests = [hashlib.sha256(one).digest() for one in shown]
        if True not in [hmac.compare_digest(digest, self._digest) for digest in digests]:
            raise Unauthorized("INVALID_API_KEY", "the API key is not the one of this worker")
