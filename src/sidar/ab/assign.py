"""Deterministic buckets: a user's bucket is a function of the user id and the experiment's name.

    u = first 8 bytes of SHA-256("<experiment>:<user id>") as a big-endian integer / 2^64

The bucket is the one whose interval of cumulated shares holds u.  Nothing is stored, every process
and every language that has SHA-256 agrees, and two experiments draw independently because their
names differ.  [known: hash bucketing]
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from math import inf


def bucket(user_id: str, experiment: str, shares: Mapping[str, float]) -> str:
    """Return the bucket of a user, a key of ``shares``.

    ``shares`` are relative, in the order in which the buckets lie on the line from 0 to 1: ``{"a":
    1, "b": 1}`` halves the users.  Changing them during an experiment moves users to other buckets.
    Raises ``ValueError`` for an empty name and for shares that are no shares.
    """
    names, edges = _edges(experiment, shares)
    return names[bisect_right(edges, _place(user_id, experiment))]


def buckets(user_ids: Iterable[str], experiment: str, shares: Mapping[str, float]) -> list[str]:
    """Return :func:`bucket` of every user."""
    names, edges = _edges(experiment, shares)
    return [names[bisect_right(edges, _place(user_id, experiment))] for user_id in user_ids]


def _place(user_id: str, experiment: str) -> float:
    digest = sha256(f"{experiment}:{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _edges(experiment: str, shares: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """Return the names of the buckets and the upper ends of all intervals but the last."""
    if not experiment:
        raise ValueError("an experiment needs a name: it makes its buckets differ from others'")
    check_shares(shares)
    total = sum(shares.values())
    cumulated = list(accumulate(share / total for share in shares.values()))
    return list(shares), cumulated[:-1]


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise ``ValueError`` where there are fewer than two buckets or a share is not positive."""
    if len(shares) < 2:
        raise ValueError(
            f"shares name {len(shares)} bucket(s); an experiment needs at least two, e.g. a=50,b=50"
        )
    wrong = [name for name, share in shares.items() if not 0 < share < inf]
    if wrong:
        raise ValueError(
            f"the share of bucket {wrong[0]!r} is {shares[wrong[0]]:g}; want a positive number"
        )


@dataclass(frozen=True)
class Agreement:
    """How many users have the bucket in the log that the hash gives them."""

    experiment: str
    users: int
    differing: int

    def lines(self) -> list[str]:
        """Return the check in words."""
        if not self.differing:
            return [
                f"all {self.users:,} users are in the bucket that the hash of experiment "
                f"{self.experiment!r} gives them"
            ]
        return [
            f"{self.differing:,} of {self.users:,} users ({self.differing / self.users:.1%}) are "
            f"not in the bucket that the hash of experiment {self.experiment!r} gives them; check "
            "the experiment's name, the order and size of --shares, and that the service hashes "
            "the same user ids"
        ]


def agreement(
    user_ids: Iterable[str],
    logged: Iterable[str],
    experiment: str,
    shares: Mapping[str, float],
) -> Agreement:
    """Compare the buckets of a log with those of the hash."""
    expected = buckets(user_ids, experiment, shares)
    differing = sum(drawn != held for drawn, held in zip(expected, logged, strict=True))
    return Agreement(experiment, len(expected), differing)
