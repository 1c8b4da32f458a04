"""One exchange between a client and a server, and whether there is another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Generic

import httpx

from sidar.client.calls import Answer, Call
from sidar.client.errors import ApiError, UnreachableError, problem_of
from sidar.client.retries import LATER, NEVER, Retries, retry_after


@dataclass(frozen=True)
class Server:
    """Where a server is, and how it is called."""

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no address such as http://127.0.0.1:8000")

    def options(self) -> dict[str, Any]:
        """Return the arguments of an httpx client."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return {"base_url": self.url, "headers": headers, "timeout": self.timeout}

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        """Return the arguments of httpx's ``request``."""
        arguments: dict[str, Any] = {
            "method": call.method,
            # below the prefix of the address, where there is one
            "url": call.path.removeprefix("/"),
            "timeout": max(self.timeout, call.seconds),
        }
        if call.params:
            arguments["params"] = list(call.params)
        if call.body is not None:
            arguments["json"] = call.body
        return arguments


class Attempts(Generic[Answer]):
    """The attempts of one call: after each, :meth:`failed` and :meth:`answered` tell what to do."""

    def __init__(self, call: Call[Answer], retries: Retries) -> None:
        self._call = call
        self._retries = retries if call.repeatable else NEVER
        self._started = time.monotonic()
        self._count = 0

    def failed(self, error: httpx.TransportError) -> float:
        """Return the seconds until the next attempt; ``UnreachableError`` where it was the last."""
        pause = self._pause(None)
        if pause is None:
            words = str(error) or type(error).__name__
            times = "" if self._count == 1 else f" (asked {self._count} times)"
            raise UnreachableError(f"{self._call.name}: no answer{times}: {words}") from error
        return pause

    def answered(self, response: httpx.Response) -> float | None:
        """Return the seconds until the next attempt, None where this answer is the one.

        ``ApiError`` for an answer that says no.
        """
        if response.is_success:
            return None
        if response.status_code in LATER:
            pause = self._pause(retry_after(response.headers.get("Retry-After")))
            if pause is not None:
                return pause
        problem = problem_of(_json(response), response.text)
        raise ApiError(response.status_code, problem, self._call.name)

    def read(self, response: httpx.Response) -> Answer:
        """Return the answer as the call reads it; ``ApiError`` where it is no answer of Sidar."""
        try:
            return self._call.read(response.json())
        except (ValueError, KeyError, TypeError) as error:
            problem = f"this is no answer of a Sidar server: {error}"
            raise ApiError(response.status_code, problem, self._call.name) from error

    def _pause(self, least: float | None) -> float | None:
        self._count += 1
        return self._retries.pause(self._count, time.monotonic() - self._started, least)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
