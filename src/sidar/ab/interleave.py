"""Team-draft interleaving: two retrievers share one list, and clicks decide within each request.

Both retrievers pick their best item that is not in the list yet, as two captains pick players; the
one with fewer items so far picks, and a coin decides where they have equally many.  A request is
won by the team with more clicked items.  [known: Radlinski, Kurup, Joachims, CIKM 2008]

The coins are bits of SHA-256("<experiment>:<request id>:<block>"), so any process makes the same
list of the same request.  In the log the team of a shown item is an entry ``team:<name>`` of
``channels``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import NormalDist

import numpy as np
from scipy import stats

from sidar.ab.channels import TEAM
from sidar.data.duck import Duck, text
from sidar.evaluate.stats import bootstrap_interval, smallest_detectable, standard_error


@dataclass(frozen=True)
class Interleaved:
    """A list of items, best first, and the team that picked each."""

    items: tuple[str, ...]
    teams: tuple[str, ...]

    def channels(self) -> list[str]:
        """Return the entry of the log's column ``channels`` for each item."""
        return [f"{TEAM}{team}" for team in self.teams]


def team_draft(
    first: Sequence[str],
    second: Sequence[str],
    request_id: str,
    k: int = 10,
    *,
    experiment: str = "interleaving",
    names: tuple[str, str] = ("a", "b"),
) -> Interleaved:
    """Return k items of two ranked lists, picked in turns; fewer where both lists end.

    The same request id always gives the same list.  When one list has ended, the other goes on.
    """
    coins = _coins(f"{experiment}:{request_id}")
    lists = (first, second)
    picked: dict[str, int] = {}
    counts, places = [0, 0], [0, 0]
    while len(picked) < k:
        for side in (0, 1):
            while places[side] < len(lists[side]) and lists[side][places[side]] in picked:
                places[side] += 1
        open_sides = [side for side in (0, 1) if places[side] < len(lists[side])]
        if not open_sides:
            break
        if counts[0] == counts[1]:
            turn = next(coins)
        else:
            turn = int(counts[1] < counts[0])
        side = turn if turn in open_sides else open_sides[0]
        picked[lists[side][places[side]]] = side
        counts[side] += 1
    return Interleaved(tuple(picked), tuple(names[side] for side in picked.values()))


def _coins(seed: str) -> Iterator[int]:
    """Yield fair bits that are a function of ``seed``."""
    block = 0
    while True:
        digest = sha256(f"{seed}:{block}".encode()).digest()
        for byte in digest:
            for bit in range(8):
                yield byte >> bit & 1
        block += 1


@dataclass(frozen=True)
class Preference:
    """Which team wins requests, by one kind of event.

    ``effect`` is (wins of the second − wins of the first) / requests with an event, from −1 to 1;
    its interval is a bootstrap over users.  ``p_sign`` is the exact sign test, which takes requests
    for independent; ``p`` allows for users with many requests.
    """

    kind: str
    teams: tuple[str, str]
    wins: tuple[int, int]
    ties: int
    without: int  # requests without such an event
    effect: float
    low: float
    high: float
    p: float
    p_sign: float
    detectable: float
    users: int

    def line(self) -> str:
        """Return the result in words."""
        first, second = self.teams
        counts = (
            f"by {self.kind}: {second} wins {self.wins[1]:,} requests, {first} {self.wins[0]:,}, "
            f"{self.ties:,} ties, {self.without:,} without {self.kind}"
        )
        if not np.isfinite(self.effect):
            return counts
        verdict = (
            f"cannot be told from noise; smallest effect seen at 80 % power {self.detectable:.3f}"
        )
        if self.p < 0.05:
            verdict = f"{second if self.effect > 0 else first} is preferred"
        return (
            f"{counts}; effect {self.effect:+.4f} ({self.low:+.4f} to {self.high:+.4f}), "
            f"p = {self.p:.3g} (sign test {self.p_sign:.3g}): {verdict}"
        )


def preference(
    credits: np.ndarray,
    users: np.ndarray,
    teams: tuple[str, str],
    kind: str = "clicks",
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Preference:
    """Return who wins from ``credits`` (R, 2), the events of each team's items in R requests.

    ``users`` (R,) labels the requests of one user; intervals and ``p`` are clustered by it.
    """
    credits = np.asarray(credits)
    counted = credits.sum(axis=1) > 0
    signs = np.sign(credits[counted, 1] - credits[counted, 0]).astype(np.float64)
    clusters = np.asarray(users)[counted]
    wins = (int((signs < 0).sum()), int((signs > 0).sum()))
    without = int((~counted).sum())
    n_users = len(np.unique(clusters))
    nan = float("nan")
    if n_users < 2:
        effect = float(signs.mean()) if len(signs) else nan
        ties = len(signs) - sum(wins)
        return Preference(
            kind, teams, wins, ties, without, effect, nan, nan, nan, nan, nan, n_users
        )
    effect = float(signs.mean())
    low, high = bootstrap_interval(signs, clusters, seed, samples=samples)
    se = standard_error(signs, clusters)
    p = 2 * (1 - NormalDist().cdf(abs(effect) / se)) if se > 0 else nan
    sign_test = stats.binomtest(wins[1], sum(wins)).pvalue if sum(wins) else 1.0
    return Preference(
        kind=kind,
        teams=teams,
        wins=wins,
        ties=len(signs) - sum(wins),
        without=without,
        effect=effect,
        low=low,
        high=high,
        p=float(p),
        p_sign=float(sign_test),
        detectable=smallest_detectable(signs, clusters),
        users=n_users,
    )


def read_preferences(duck: Duck) -> list[Preference]:
    """Return the preferences by clicks and by orders of the interleaved requests in ``ab_items``.

    Empty where no item has a team.  Raises ``ValueError`` where there are not two teams.
    """
    rows = duck.rows("SELECT DISTINCT unnest(teams) AS team FROM ab_items ORDER BY team")
    names = [row[0].removeprefix(TEAM) for row in rows]
    if not names:
        return []
    if len(names) != 2:
        raise ValueError(
            f"the log has items of {len(names)} team(s), {', '.join(names)}; an interleaved log "
            "has two. Read the requests of one experiment at a time (events.path)"
        )
    credit = ", ".join(
        f"count({moment}) FILTER (list_contains(teams, {text(TEAM + name)})) AS {kind}_{side}"
        for kind, moment in (("clicks", "clicked"), ("orders", "ordered"))
        for side, name in enumerate(names)
    )
    # without a user id a request is its own cluster; orders may stand in a request of their own
    table = duck.table(
        f"""SELECT coalesce(nullif(user_id, ''), concat('request ', request)) AS user_id, {credit},
                bool_or(shown IS NOT NULL OR clicked IS NOT NULL) AS listed
            FROM ab_items GROUP BY ab_items.user_id, request
            HAVING bool_or(len(teams) > 0) ORDER BY ALL"""
    )
    users = np.asarray(table.column("user_id").to_pylist(), dtype=object)
    listed = np.asarray(table.column("listed").to_pylist(), dtype=bool)
    credits = {
        kind: np.stack([table.column(f"{kind}_{side}").to_numpy() for side in (0, 1)], axis=1)
        for kind in ("clicks", "orders")
    }
    teams = (names[0], names[1])
    return [
        preference(credits["clicks"][listed], users[listed], teams, "clicks"),
        preference(credits["orders"], users, teams, "orders"),
    ]
