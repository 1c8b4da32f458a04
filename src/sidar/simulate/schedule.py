"""When who searches what: sessions over days, queries by interest, popularity (Zipf) and what was
searched before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from sidar.simulate.config import SimulatorConfig
from sidar.simulate.grounded import Grounded
from sidar.simulate.shoppers import GENDERS, Shoppers

DAY_US = 86_400_000_000
_SECOND = 1_000_000
_LONGEST_SESSION = 6
#: Invented: chance weight of a search for the other sex's clothes (gifts happen).
_OTHER_SEX = 0.15


@dataclass(frozen=True)
class Schedule:
    """R requests in order of time: ``ts`` µs, ``day`` 1-based, ``user``, ``session``, ``query``
    number, ``random``.
    """

    ts: np.ndarray
    day: np.ndarray
    user: np.ndarray
    session: np.ndarray
    query: np.ndarray  # (R,) phrasing number of Grounded.queries
    random: np.ndarray  # (R,) bool: shown in random order


class GroupSampler:
    """Draws members of groups in proportion to weights, for many requests at once."""

    def __init__(
        self, members: np.ndarray, groups: np.ndarray, weights: np.ndarray, n_groups: int
    ) -> None:
        order = np.argsort(groups, kind="stable")
        self._members = members[order]
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])  # (n+1,)
        self._bounds = np.searchsorted(groups[order], np.arange(n_groups + 1))  # (n_groups+1,)

    def weight(self) -> np.ndarray:
        """(n_groups,) total weight of each group."""
        return np.diff(self._cumulative[self._bounds])

    def draw(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n,) one member of each group in ``groups`` (n,); every asked group must have weight."""
        low, high = self._bounds[groups], self._bounds[groups + 1]
        start, end = self._cumulative[low], self._cumulative[high]
        at = (
            np.searchsorted(
                self._cumulative, start + rng.random(len(groups)) * (end - start), side="right"
            )
            - 1
        )
        return self._members[np.clip(at, low, high - 1)]


class Demand:
    """Which train intents are asked, by whom: popularity over rank, department,
    noun and audience.
    """

    def __init__(
        self, grounded: Grounded, department: tuple[str, ...], cfg: SimulatorConfig
    ) -> None:
        train = np.flatnonzero([split == "train" for split in grounded.splits])
        # Zipf–Mandelbrot over popularity rank
        weights = (np.arange(len(train)) + 1 + cfg.zipf_offset) ** -cfg.zipf
        homes = [department[grounded.truths[i].exact[0]] for i in train]
        self.departments = tuple(sorted(set(homes)))
        number = {name: i for i, name in enumerate(self.departments)}
        self.home = np.asarray([number[home] for home in homes])  # (train,)
        nouns = {
            noun: i for i, noun in enumerate(sorted({grounded.intents[i].noun for i in train}))
        }
        self.noun = np.asarray([nouns[grounded.intents[i].noun] for i in train])
        factor = np.ones((len(GENDERS), len(train)))
        for column, i in enumerate(train):
            audience = {
                value for facet, value in grounded.intents[i].constraints if facet == "audience"
            }
            factor[GENDERS.index("male"), column] = _OTHER_SEX if "women" in audience else 1.0
            factor[GENDERS.index("female"), column] = _OTHER_SEX if "men" in audience else 1.0
        members, n = np.tile(np.arange(len(train)), len(GENDERS)), len(train)
        gender = np.repeat(np.arange(len(GENDERS)), n)
        spread = (factor * weights).ravel()
        by_home = np.tile(self.home, len(GENDERS)) * len(GENDERS) + gender
        by_noun = np.tile(self.noun, len(GENDERS)) * len(GENDERS) + gender
        self._by_home = GroupSampler(members, by_home, spread, len(self.departments) * len(GENDERS))
        self._by_noun = GroupSampler(members, by_noun, spread, len(nouns) * len(GENDERS))
        # (departments,)
        self.share = np.bincount(self.home, weights, len(self.departments)) / weights.sum()

    def first(self, users: np.ndarray, who: Shoppers, rng: np.random.Generator) -> np.ndarray:
        """(n,) intents for a fresh thought: a department of the user's interest, then an intent in
        it.
        """
        cumulative = np.cumsum(who.interest[users], axis=1)
        home = (cumulative < rng.random(len(users))[:, None] * cumulative[:, -1:]).sum(axis=1)
        return self._by_home.draw(home * len(GENDERS) + who.gender[users], rng)

    def again(
        self, intents: np.ndarray, users: np.ndarray, who: Shoppers, rng: np.random.Generator
    ) -> np.ndarray:
        """(n,) intents for a second try: the same noun, other constraints."""
        return self._by_noun.draw(self.noun[intents] * len(GENDERS) + who.gender[users], rng)


def first_moment(cfg: SimulatorConfig) -> int:
    """µs UTC of the log's first midnight."""
    return int(datetime.fromisoformat(cfg.start).replace(tzinfo=UTC).timestamp()) * _SECOND


def draw_schedule(
    cfg: SimulatorConfig,
    grounded: Grounded,
    demand: Demand,
    who: Shoppers,
    rng: np.random.Generator,
) -> Schedule:
    """Draw exactly ``cfg.requests`` searches, spread evenly over the days, in sessions of one user
    each.
    """
    mean = 1 / cfg.session_stop
    lengths = np.minimum(
        rng.geometric(cfg.session_stop, int(cfg.requests / mean * 2) + 20), _LONGEST_SESSION
    )
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), cfg.requests)) + 1]
    lengths[-1] -= lengths.sum() - cfg.requests
    n_sessions = len(lengths)
    users = rng.choice(cfg.users, size=n_sessions, p=who.activity)
    day = rng.permutation(np.arange(n_sessions) % cfg.days)
    begin = (
        first_moment(cfg)
        + day * DAY_US
        + (6 * 3600 + 16.5 * 3600 * rng.beta(2.2, 1.8, n_sessions)) * _SECOND
    )

    intents = np.empty((n_sessions, _LONGEST_SESSION), dtype=np.int64)
    intents[:, 0] = demand.first(users, who, rng)
    for step in range(1, _LONGEST_SESSION):
        stay = rng.random(n_sessions) < cfg.session_stay
        fresh, same = (
            demand.first(users, who, rng),
            demand.again(intents[:, step - 1], users, who, rng),
        )
        intents[:, step] = np.where(stay, same, fresh)
    gaps = rng.uniform(60, 240, (n_sessions, _LONGEST_SESSION)) * _SECOND
    moments = begin[:, None] + np.cumsum(gaps, axis=1)
    asked = np.arange(_LONGEST_SESSION) < lengths[:, None]  # (sessions, longest)

    session = np.repeat(np.arange(n_sessions), lengths)
    ts = moments[asked].astype(np.int64)
    order = np.argsort(ts, kind="stable")
    days = day[session][order] + 1
    return Schedule(
        ts=ts[order],
        day=days,
        user=users[session][order],
        session=session[order],
        query=_phrasings(intents[asked][order], grounded, rng),
        random=_randomised(days, cfg.logger.random_share, rng),
    )


def _phrasings(intents: np.ndarray, grounded: Grounded, rng: np.random.Generator) -> np.ndarray:
    """One phrasing per request: the intent's first weighs two, its others one each (train intents
    come first).
    """
    weights = np.where(np.diff(grounded.intent_of, prepend=-1) > 0, 2.0, 1.0)
    sampler = GroupSampler(
        np.arange(len(grounded.queries)), grounded.intent_of, weights, len(grounded.intents)
    )
    return sampler.draw(intents, rng)


def _randomised(day: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The same share of every day's requests, to the nearest request."""
    chosen = np.zeros(len(day), dtype=bool)
    for which in np.unique(day):
        of_day = np.flatnonzero(day == which)
        chosen[rng.permutation(of_day)[: round(share * len(of_day))]] = True
    return chosen
