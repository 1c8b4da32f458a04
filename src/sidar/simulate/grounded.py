"""Catalogue-grounded queries: intents, their phrasings and splits, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from sidar.data.sample.overlap import Overlap, normal_tokens
from sidar.simulate.config import QueriesConfig
from sidar.simulate.facts import Facts
from sidar.simulate.intents import GRADES, Intent, Truth, draw_intents
from sidar.simulate.lexicon import Lexicon
from sidar.simulate.phrasing import Phraser

SPLITS = ("train", "valid", "test")
_ATTEMPTS = 6


@dataclass(frozen=True)
class Grounded:
    """I intents with truth and split; Q phrasings. Train intents are in order of popularity, most
    wanted first.

    ``queries[q]`` is a phrasing of intent ``intent_of[q]``; a train intent may have several, a
    held-out one has one.
    """

    intents: tuple[Intent, ...]
    truths: tuple[Truth, ...]
    splits: tuple[str, ...]  # (I) train, valid or test
    queries: tuple[str, ...]  # (Q)
    intent_of: np.ndarray  # (Q,) int64

    def of_split(self, split: str) -> np.ndarray:
        """Numbers of the phrasings of one split."""
        return np.flatnonzero([self.splits[i] == split for i in self.intent_of])


def query_id(query: str) -> str:
    """A stable id of a query text."""
    return "grounded-" + sha256(query.encode()).hexdigest()[:12]


def ground(
    facts: Facts,
    lexicon: Lexicon,
    cfg: QueriesConfig,
    avoid: Iterable[str],
    rng: np.random.Generator,
) -> Grounded:
    """Draw intents, phrase them, split them by the hash of their key (never by phrasing: no
    paraphrase crosses).

    A phrasing that resembles a query of ``avoid`` is never used (token Jaccard ≥ .8), nor one whose
    words another intent already has. Raises ``ValueError`` when fewer than ``cfg.count`` intents
    survive.
    """
    near, phraser = Overlap(avoid), Phraser(lexicon, cfg, rng)
    owner: dict[frozenset[str], Intent] = {}

    def phrase(intent: Intent) -> str | None:
        for _ in range(_ATTEMPTS):
            query = phraser.phrase(intent)
            words = normal_tokens(query)
            if owner.setdefault(words, intent) == intent and not near.is_near(query):
                return query
        return None

    accepted: dict[Intent, str] = {}
    drawn = draw_intents(facts, cfg, rng)
    for intent in sorted(drawn, key=lambda intent: sha256(intent.key.encode()).digest()):
        spelt_out = " ".join([*(value for _, value in intent.constraints), intent.noun])
        if len(accepted) < cfg.count and not near.is_near(spelt_out) and (query := phrase(intent)):
            accepted[intent] = query
    if len(accepted) < cfg.count:
        raise ValueError(
            f"only {len(accepted)} of {cfg.count} grounded queries are distinct; lower "
            "queries.count"
        )
    order = list(accepted)  # by hash: a cut of this order is a split by hash
    n_train, n_valid = round(cfg.train * cfg.count), round(cfg.valid * cfg.count)
    train = _by_popularity(order[:n_train], drawn, facts, rng)
    splits = ["train"] * n_train + ["valid"] * n_valid + ["test"] * (cfg.count - n_train - n_valid)
    intents = [*train, *order[n_train:]]
    queries, intent_of = [], []
    for number, intent in enumerate(intents):
        texts = {accepted[intent]: None}
        wanted = (
            1 + round((cfg.variants - 1) * (1 - number / n_train) ** 2) if number < n_train else 1
        )
        for _ in range(wanted - 1):
            if other := phrase(intent):
                texts[other] = None
        queries += list(texts)
        intent_of += [number] * len(texts)
    return Grounded(
        intents=tuple(intents),
        truths=tuple(drawn[intent] for intent in intents),
        splits=tuple(splits),
        queries=tuple(queries),
        intent_of=np.asarray(intent_of, dtype=np.int64),
    )


def _by_popularity(
    intents: Sequence[Intent], truths: dict[Intent, Truth], facts: Facts, rng: np.random.Generator
) -> list[Intent]:
    """Most wanted first: many ratings among the exact items, few constraints, and luck."""
    wanted = [
        np.log1p(facts.ratings[truths[i].exact].sum()) - 1.5 * len(i.constraints) for i in intents
    ]
    order = np.argsort(
        -(np.asarray(wanted) + rng.gumbel(scale=1.0, size=len(intents))), kind="stable"
    )
    return [intents[i] for i in order]


def write_grounded(grounded: Grounded, item_ids: np.ndarray, out: Path) -> None:
    """``grounded_{train,valid,test}.queries.tsv`` (query_id, query) and ``.qrels.tsv`` (query_id,
    item_id, grade).
    """
    for split in SPLITS:
        queries, qrels = ["query_id\tquery"], ["query_id\titem_id\tgrade"]
        for q in grounded.of_split(split):
            name, truth = query_id(grounded.queries[q]), grounded.truths[grounded.intent_of[q]]
            queries.append(f"{name}\t{grounded.queries[q]}")
            pairs = zip(item_ids[truth.rows], truth.codes.tolist(), strict=True)
            qrels += [f"{name}\t{item}\t{GRADES[code]:g}" for item, code in pairs]
        (out / f"grounded_{split}.queries.tsv").write_text(
            "\n".join(queries) + "\n", encoding="utf-8"
        )
        (out / f"grounded_{split}.qrels.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
