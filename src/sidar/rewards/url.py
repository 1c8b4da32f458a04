"""A reward that a service of the user's computes: one POST for all requests of a step."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from sidar.config import UrlConfig
from sidar.rewards.interface import ItemReward, LoggedRequest, RewardInputs
from sidar.rewards.registry import register_reward

#: Characters of an answer that an error shows.
SHOWN = 200


@register_reward("url")
class UrlReward(ItemReward):
    """Sends ``{"requests": [...], "items": [[item ids], ...]}`` and reads ``{"scores": [[...]]}``.

    A request has ``request_id``, ``ts``, ``query``, ``profile`` and ``history`` (item ids, oldest
    first). Every error names the address, and the request and item where there is one.
    """

    options_class = UrlConfig

    def fit(self, inputs: RewardInputs) -> Self:
        url = self.options.url
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"align.rewards.url.url is {url!r}; want the address of the service that scores, "
                "such as http://localhost:9000/score"
            )
        self.pool, self.invalid = self.options.pool, self.options.invalid
        self._ids = inputs.dataset.catalogue.item_ids
        return super().fit(inputs)

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        return self.batch_scores([request], [rows])[0]

    def batch_scores(
        self, requests: Sequence[LoggedRequest], rows: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        items = [[str(item) for item in self._ids[some]] for some in rows]
        asked = {"requests": [self._as_json(request) for request in requests], "items": items}
        return self._read(self._ask(json.dumps(asked).encode()), items)

    def _as_json(self, request: LoggedRequest) -> dict[str, Any]:
        return {
            "request_id": request.request_id,
            "ts": request.ts,
            "query": request.prompt.query,
            "profile": request.prompt.profile,
            "history": [str(item) for item in self._ids[list(request.prompt.history)]],
        }

    def _ask(self, body: bytes) -> bytes:
        """Return the service's answer; ``ValueError`` after the last try that failed."""
        options, reason = self.options, ""
        asked = urllib.request.Request(
            options.url, data=body, headers={"Content-Type": "application/json"}
        )
        for _ in range(options.retries + 1):
            try:
                with urllib.request.urlopen(asked, timeout=options.timeout_s) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                shown = error.read(SHOWN).decode(errors="replace")
                reason = f"answered {error.code} {error.reason}: {shown}"
                if error.code < 500:  # the same request would be refused again
                    break
            except TimeoutError:
                reason = f"did not answer within align.rewards.url.timeout_s {options.timeout_s:g}"
            except (urllib.error.URLError, OSError) as error:
                reason = f"cannot be reached: {getattr(error, 'reason', error)}"
        raise self._fault(f"{reason}; see that the service runs, then run the stage again")

    def _read(self, answer: bytes, items: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the scores of an answer; ``ValueError`` names the first one that is missing."""
        try:
            scores = json.loads(answer)["scores"]
        except (ValueError, KeyError, TypeError):
            shown = answer[:SHOWN].decode(errors="replace")
            raise self._fault(f'wants {{"scores": [[...]]}} as JSON, answered {shown!r}') from None
        if not isinstance(scores, list) or len(scores) != len(items):
            got = len(scores) if isinstance(scores, list) else type(scores).__name__
            raise self._fault(f"wants a list of {len(items)} lists in scores, got {got}")
        read = []
        for number, (values, ids) in enumerate(zip(scores, items, strict=True)):
            if not isinstance(values, list) or len(values) != len(ids):
                got = len(values) if isinstance(values, list) else type(values).__name__
                raise self._fault(f"request {number} has {len(ids)} items, its scores are {got}")
            for item, value in zip(ids, values, strict=True):
                number_like = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number_like or not np.isfinite(value):
                    raise self._fault(
                        f"request {number}, item {item!r}: {value!r} is no finite number"
                    )
            read.append(np.array(values, np.float64))
        return read

    def _fault(self, says: str) -> ValueError:
        return ValueError(f"align.reward 'url': {self.options.url} {says}")
