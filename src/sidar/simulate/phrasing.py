"""How an intent is typed: order of words, synonyms, singular or plural, slips of the keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sidar.simulate.config import QueriesConfig
from sidar.simulate.facts import Fact
from sidar.simulate.intents import Intent
from sidar.simulate.lexicon import Lexicon

T = TypeVar("T")

#: Usual order of what stands before the noun; uses, and often the audience, follow it.
_BEFORE = ("audience", "brand", "size", "colour", "feature", "material")


class Phraser:
    """Writes intents as queries.

    Every call draws from ``rng``: same seed and order of calls, same queries.
    """

    def __init__(self, lexicon: Lexicon, cfg: QueriesConfig, rng: np.random.Generator) -> None:
        self.lexicon, self.cfg, self.rng = lexicon, cfg, rng

    def phrase(self, intent: Intent) -> str:
        """One query text for ``intent``: lower case, words separated by single spaces."""
        before: list[str] = []
        after: list[str] = []
        for facet in (*_BEFORE, "use"):
            for constraint in intent.constraints:
                if constraint[0] == facet:
                    words, follows = self._constraint(constraint)
                    (after if follows else before).append(words)
        noun = self._noun(intent.noun)
        parts = [*before, noun, *after]
        if len(parts) > 1 and self._chance(self.cfg.reorder):
            loose = [part for part in parts if not part.startswith(("for ", "with "))]
            fixed = [part for part in parts if part.startswith(("for ", "with "))]
            parts = [*(loose[i] for i in self.rng.permutation(len(loose))), *fixed]
        # "for women for travel" says "for" once
        query = " ".join(dict.fromkeys(" ".join(parts).split()))
        return self._slip(query) if self._chance(self.cfg.typo) else query

    def _constraint(self, constraint: Fact) -> tuple[str, bool]:
        """The words of a constraint, and whether they follow the noun."""
        facet, value = constraint
        if facet == "audience":
            entry, follows = self.lexicon.audiences[value], self._chance(0.4)
            return self._pick(entry["after" if follows else "before"]), follows
        if facet == "colour":
            said = self.lexicon.colours[value]["said"]
            return (self._pick(said) if self._chance(self.cfg.synonym) else said[0]), False
        if facet == "use":
            follows = self._chance(0.7) or value in {
                "gifts",
                "kids",
                "adults",
                "beginners",
                "toddlers",
                "puppies",
            }
            return (f"for {value}" if follows else value), follows
        if facet == "size":
            return value, self._chance(0.3)
        return value, value.startswith("with ")

    def _noun(self, noun: str) -> str:
        written = self.lexicon.written(noun, plural=self._chance(0.5))
        others = self.lexicon.synonyms.get(noun)
        return self._pick(others) if others and self._chance(self.cfg.synonym) else written

    def _slip(self, query: str) -> str:
        """One slip in one word of five letters or more: letters swapped, dropped, doubled or a
        neighbouring key.
        """
        words = query.split()
        long = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
        if not long:
            return query
        which = int(self._pick(long))
        word = words[which]
        at = int(self.rng.integers(1, len(word) - 1))
        kind = int(self.rng.integers(4))
        if kind == 0:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind == 1:
            word = word[:at] + word[at + 1 :]
        elif kind == 2:
            word = word[:at] + word[at] + word[at:]
        else:
            neighbours = self.lexicon.keyboard.get(word[at], word[at])
            word = word[:at] + neighbours[int(self.rng.integers(len(neighbours)))] + word[at + 1 :]
        return " ".join([*words[:which], word, *words[which + 1 :]])

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]
