"""When a call is made again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Answers that say "later": too many requests (429), loading or overloaded (503), and what a proxy
#: says in the server's place (502, 504).
LATER = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """How often a call is made, and the pauses in between.

    The pause before attempt n + 1 is drawn from 0 to min(``most``, ``first`` · 2ⁿ⁻¹) seconds: "full
    jitter", so that clients which failed together do not come back together [source: Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015]. A ``Retry-After`` of the server
    is the least pause. A call whose next pause would end beyond ``seconds`` after its start is
    given up.
    """

    attempts: int = 4
    first: float = 0.2
    most: float = 10.0
    seconds: float = 30.0
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}: a call is made at least once")

    def pause(self, attempt: int, passed: float, retry_after: float | None) -> float | None:
        """Return the seconds to wait after ``attempt`` (from 1); None = give up.

        ``passed`` seconds are gone since the first attempt began.
        """
        if attempt >= self.attempts:
            return None
        longest = min(self.most, self.first * 2 ** (attempt - 1))
        wait = self.draw() * longest
        if retry_after is not None:
            # the draw stays on top: else all who were refused together come back together
            wait += retry_after
        return None if passed + wait > self.seconds else wait


#: One attempt and no more.
NEVER = Retries(attempts=1)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3: seconds or a date).

    None where there is none, or one that cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
