"""What a shopper wants, and the rule that says which products answer it.

An intent is a noun and up to three facts ("sandal" for women, black). Its truth (docs/simulator.md)
on ESCI's grades:

* 1    exact: the noun and every fact;
* .1   substitute: the noun, all facts but one, and the right audience;
* .01  related: the noun otherwise; or another noun of the same category family, with every fact;
* 0    the rest of the catalogue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from sidar.simulate.config import QueriesConfig
from sidar.simulate.facts import Fact, Facts

#: Grades by code; a truth is held as the code.
GRADES = (1.0, 0.1, 0.01, 0.0)
EXACT, SUBSTITUTE, RELATED, IRRELEVANT = range(4)

#: How readily a shopper names a fact of this facet.
_NAMED = {
    "brand": 1.0,
    "colour": 1.0,
    "audience": 1.0,
    "material": 0.8,
    "feature": 0.8,
    "size": 0.5,
    "use": 0.6,
}
#: Combinations of facts tried per product and length.
_COMBINATIONS = 4


@dataclass(frozen=True, order=True)
class Intent:
    """A noun and its constraints in a fixed order; ``key`` names it in hashes and files."""

    noun: str
    constraints: tuple[Fact, ...] = ()

    @property
    def key(self) -> str:
        return "|".join([self.noun, *(f"{facet}={value}" for facet, value in self.constraints)])


@dataclass(frozen=True)
class Truth:
    """The judged rows of an intent, exact ones first: ``rows`` (n,) int64, ``codes`` (n,) int8 into
    GRADES.
    """

    rows: np.ndarray
    codes: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        return self.rows[self.codes == EXACT]


def judge(
    intent: Intent, facts: Facts, relatives: Mapping[str, Sequence[str]], max_related: int
) -> Truth:
    """Apply the rule of this module to the whole catalogue; at most ``max_related`` related items,
    by hash.
    """
    wanted = set(intent.constraints)
    by_code: list[list[int]] = [[], [], []]
    for row in facts.rows_of[intent.noun].tolist():
        missing = wanted - facts.facts[row]
        if not missing:
            by_code[EXACT].append(row)
        elif len(missing) == 1 and next(iter(missing))[0] != "audience":
            by_code[SUBSTITUTE].append(row)
        else:
            by_code[RELATED].append(row)
    own = {row for rows in by_code for row in rows}
    for other in relatives.get(intent.noun, ()):
        by_code[RELATED] += [
            r for r in facts.rows_of[other].tolist() if r not in own and wanted <= facts.facts[r]
        ]
    related = sorted(
        set(by_code[RELATED]), key=lambda row: sha256(f"{intent.key}#{row}".encode()).digest()
    )
    by_code[RELATED] = sorted(related[:max_related])
    codes = np.repeat(np.arange(3, dtype=np.int8), [len(rows) for rows in by_code])
    return Truth(np.asarray([row for rows in by_code for row in rows], dtype=np.int64), codes)


def relatives(facts: Facts) -> dict[str, list[str]]:
    """Nouns whose items hang under the same category (deeper than its department), per noun."""
    by_family: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for noun, family in facts.family.items():
        if len(family) >= 2:
            by_family[family].append(noun)
    return {
        noun: [n for n in by_family[family] if n != noun] for noun, family in facts.family.items()
    }


def draw_intents(facts: Facts, cfg: QueriesConfig, rng: np.random.Generator) -> dict[Intent, Truth]:
    """Distinct intents, 5 % more than ``cfg.count`` where the catalogue has them, to replace some
    that fall out later.

    Each is drawn from a real product (its noun and some of its facts), so none is empty by
    construction, and has at most ``cfg.max_exact`` exact items. The shares of 0, 1, 2, 3
    constraints follow ``cfg.constraints``, and at most ``cfg.single`` of the intents have one exact
    item only, as far as the catalogue allows. Raises ``ValueError`` when the catalogue grounds
    fewer intents than asked.
    """
    usable = {noun for noun, rows in facts.rows_of.items() if len(rows) >= cfg.min_items}
    # intent -> number of exact items
    found: list[dict[Intent, int]] = [{} for _ in cfg.constraints]
    index = _Index(facts)
    for row, nouns in enumerate(facts.nouns):
        for noun in nouns:
            if noun in usable:
                for intent in _of_product(noun, facts.facts[row], len(cfg.constraints) - 1, rng):
                    if intent not in found[len(intent.constraints)]:
                        found[len(intent.constraints)][intent] = index.n_exact(intent)
    pools = [
        {intent: n for intent, n in intents.items() if n <= cfg.max_exact} for intents in found
    ]
    total = sum(map(len, pools))
    if total < cfg.count:
        raise ValueError(
            f"the catalogue grounds {total} intents, fewer than queries.count = {cfg.count}; "
            "lower the count, queries.min_items, or add categories and attributes to the catalogue"
        )
    near, count = relatives(facts), min(total, cfg.count + cfg.count // 20 + 10)
    chosen: dict[Intent, Truth] = {}
    for pool, take in zip(pools, _takes(cfg, count, [len(pool) for pool in pools]), strict=True):
        ordered = sorted(pool)
        shuffled = [ordered[i] for i in rng.permutation(len(ordered))]
        many, one = [i for i in shuffled if pool[i] > 1], [i for i in shuffled if pool[i] == 1]
        n_many = min(len(many), max(take - round(take * cfg.single), take - len(one)))
        for intent in many[:n_many] + one[: take - n_many]:
            chosen[intent] = judge(intent, facts, near, cfg.max_related)
    return chosen


class _Index:
    """Exact items of an intent by intersection of row sets."""

    def __init__(self, facts: Facts) -> None:
        self._facts, self._rows = (
            facts,
            {noun: set(rows.tolist()) for noun, rows in facts.rows_of.items()},
        )
        self._having: dict[tuple[str, Fact], set[int]] = defaultdict(set)
        for row, nouns in enumerate(facts.nouns):
            for noun in nouns:
                for fact in facts.facts[row]:
                    self._having[noun, fact].add(row)

    def n_exact(self, intent: Intent) -> int:
        rows = [self._having[intent.noun, fact] for fact in intent.constraints]
        return len(self._rows[intent.noun].intersection(*rows))


def _takes(cfg: QueriesConfig, count: int, sizes: Sequence[int]) -> list[int]:
    """How many intents of each length: the asked shares, what one length lacks made up by the
    others.
    """
    takes = [0] * len(sizes)
    while (missing := count - sum(takes)) > 0:
        room = [size - take for size, take in zip(sizes, takes, strict=True)]
        weights = np.asarray(cfg.constraints) * (np.asarray(room) > 0)
        weights = weights if weights.sum() else (np.asarray(room) > 0).astype(float)
        for length in np.argsort(-weights, kind="stable"):
            share = max(1, round(missing * weights[length] / weights.sum()))
            takes[length] += int(min(room[length], share, count - sum(takes)))
    return takes


def _of_product(
    noun: str, facts: frozenset[Fact], longest: int, rng: np.random.Generator
) -> list[Intent]:
    """The bare noun, the noun with each fact that may be named, and some longer combinations."""
    stems = {word[:4] for word in noun.split()}
    said: list[Fact] = [f for f in sorted(facts) if not stems & {word[:4] for word in f[1].split()}]
    intents = [Intent(noun), *(Intent(noun, (fact,)) for fact in said)]
    weights = np.asarray([_NAMED[facet] for facet, _ in said])
    # the smallest of exponentials with these rates are a weighted draw without replacement
    keys = rng.exponential(size=(max(longest - 1, 0) * _COMBINATIONS, len(said))) / weights
    for draw, ranked in enumerate(np.argsort(keys, axis=1)):
        length = 2 + draw // _COMBINATIONS
        chosen = sorted(said[i] for i in ranked[:length])
        if len({facet for facet, _ in chosen}) == length:  # one colour, one size, … per query
            intents.append(Intent(noun, tuple(chosen)))
    return intents
