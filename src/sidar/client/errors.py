"""What goes wrong between a client and a server."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """A call that has no answer."""


class ApiError(ClientError):
    """The server answered, but not 200: ``status``, and its words in ``problem``."""

    def __init__(self, status: int, problem: str, call: str) -> None:
        super().__init__(f"{call}: {status}: {problem}")
        self.status, self.problem = status, problem


class UnreachableError(ClientError):
    """No answer came: no connection, a broken one, or a timeout."""


def problem_of(body: Any, text: str) -> str:
    """Return the words of an error's ``body``, or what a proxy wrote in its place (``text``)."""
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        return str(body["error"])
    return text[:200] or "an empty answer"
