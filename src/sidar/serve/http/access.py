"""Who may do what: API keys with roles, and how many requests a minute a key has."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from sidar.config.serve import KeyConfig

Role = Literal["read", "write", "admin"]
#: A role may do what the roles before it may.
ROLES: tuple[Role, ...] = ("read", "write", "admin")
_BEARER = HTTPBearer(auto_error=False, description="An API key of serve.keys.")
#: The key of a route that reads, which may do without.
READER = "ReaderKey"
_READER = HTTPBearer(
    auto_error=False, scheme_name=READER, description="An API key of serve.keys, of any role."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
ReaderCredentials = Annotated[HTTPAuthorizationCredentials | None, Security(_READER)]


@dataclass
class Allowance:
    """A bucket that fills with ``per_minute`` requests a minute, and holds as many."""

    per_minute: int
    left: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = float(self.per_minute)

    def take(self, now: float) -> float:
        """Take one request and return 0; where none is left, the seconds until there is one."""
        rate = self.per_minute / 60
        self.left = min(float(self.per_minute), self.left + rate * (now - self.at))
        self.at = now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


class Access:
    """Keys by their hash; :meth:`needs` is a dependency of routes."""

    def __init__(self, keys: Sequence[KeyConfig], read_key: bool = False) -> None:
        self._keys = {key.sha256: key for key in keys}
        self._read_key = read_key
        self._allowances = {
            key.name: Allowance(key.per_minute) for key in keys if key.per_minute is not None
        }

    def needs(self, role: Role) -> Callable[..., str]:
        """Return a dependency that lets in who has ``role``, and tells the name of the key.

        It answers 401 without a known key, 403 for a lower role and 429 where the key's requests of
        this minute are used up.
        """

        def admitted(credentials: Credentials = None) -> str:
            return self._admitted(role, credentials)

        def admitted_reader(credentials: ReaderCredentials = None) -> str:
            return self._admitted(role, credentials)

        return admitted_reader if role == "read" else admitted

    def describe(self, app: FastAPI) -> None:
        """Say in the description of the routes that read that they need no key, where it is so."""
        if self._read_key:
            return
        described = app.openapi

        def openapi() -> dict[str, Any]:
            description = described()
            for operations in description["paths"].values():
                for operation in operations.values():
                    if operation.get("security") == [{READER: []}]:
                        operation["security"].append({})
            return description

        # FastAPI's documented way to change the document
        app.openapi = openapi  # type: ignore[method-assign]

    def _admitted(self, role: Role, credentials: HTTPAuthorizationCredentials | None) -> str:
        if credentials is None:
            if role == "read" and not self._read_key:
                return ""
            raise HTTPException(401, self._no_key(role), {"WWW-Authenticate": "Bearer"})
        # keys are long and random, so that a plain hash tells nothing of them; the comparison is
        # one of hashes and its time tells nothing of the key
        digest = hashlib.sha256(credentials.credentials.encode()).hexdigest()
        key = self._keys.get(digest)
        if key is None:
            raise HTTPException(401, "this key is not known here", {"WWW-Authenticate": "Bearer"})
        if ROLES.index(key.role) < ROLES.index(role):
            raise HTTPException(403, f"the key {key.name!r} may {key.role}; this needs {role}")
        self._count(key)
        return key.name

    def _no_key(self, role: Role) -> str:
        if not self._keys:
            return f"this needs a key that may {role}, and the server has none: set serve.keys"
        return f"this needs a key that may {role}: send Authorization: Bearer KEY"

    def _count(self, key: KeyConfig) -> None:
        allowance = self._allowances.get(key.name)
        wait = allowance.take(time.monotonic()) if allowance is not None else 0.0
        if wait > 0:
            raise HTTPException(
                429,
                f"the key {key.name!r} has {key.per_minute} requests a minute",
                {"Retry-After": str(max(1, math.ceil(wait)))},
            )
