"""Answers other than 200 that routes declare."""

from __future__ import annotations

from typing import Any

from sidar.serve.http.schemas import Problem

Responses = dict[int | str, dict[str, Any]]
UNREADY: Responses = {
    503: {
        "model": Problem,
        "description": "The models are still loading, or failed to; or too many requests wait.",
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
    429: {"model": Problem, "description": "The key's requests of this minute are used up."},
}
