"""Answers other than 200 that routes declare."""

from __future__ import annotations

from typing import Any

from sidar.serve.http.schemas import Problem

Responses = dict[int | str, dict[str, Any]]
LATER = {
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
METRICS: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Counters."}
}
UNREADY: Responses = {
    503: {
        "model": Problem,
        "description": (
            "The models are still loading, or failed to; too many requests wait; or the disk takes "
            "nothing: then nothing of this request was kept."
        ),
        "headers": LATER,
    }
}
WRONG: Responses = {
    400: {"model": Problem, "description": "The body is no JSON in UTF-8."},
    422: {"model": Problem},
}
LIMITED: Responses = {
    401: {"model": Problem, "description": "A key is needed, or the one sent is not known."},
    403: {"model": Problem, "description": "The key's role may not do this."},
    408: {"model": Problem, "description": "The body took too long."},
    413: {"model": Problem, "description": "The body is too long."},
    415: {"model": Problem, "description": "The body has a content coding."},
    429: {
        "model": Problem,
        "description": "The key's requests of this minute are used up.",
        "headers": LATER,
    },
}
