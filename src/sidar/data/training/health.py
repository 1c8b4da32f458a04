"""What became empty or tiny on the way from a log to training data, said before anything is
trained.

Each function returns sentences; nothing here changes the data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sidar.config import Config
from sidar.data.cleaning.clean import DAY_US
from sidar.data.cleaning.positions import origin
from sidar.data.duck import Duck, text
from sidar.data.log import LogFacts
from sidar.data.training.splits import Split, date_of
from sidar.types import Json

#: Days without any event that part a clock that is wrong from a pause. [ours]
FAR_DAYS = 30
#: Largest share of the events beyond such a gap that is taken for wrong clocks. [ours]
FAR_SHARE = 0.05
#: Requests with a choice below which two systems can hardly be told apart. [ours]
FEW = 30
#: Share of all requests below which a window of few requests is an accident of the log, not a small
#: log. [ours]
TINY_SHARE = 0.05
#: What is said where there is no log.
NO_LOG = (
    "events.path is empty, so there is no log: the model learns from the products' texts alone, "
    "nothing is aligned, and only judged queries (evaluate.sets) are scored (docs/no-log.md)"
)
_WINDOWS = {"valid": "validation", "test": "the test"}


def of_log(duck: Duck, cfg: Config, facts: LogFacts, log: Path) -> list[str]:
    """Warnings about the validated log: days far from all others, queries that are all empty."""
    # the other formats have clocks and shapes of their own
    if cfg.events.format not in ("tabular", "ubi"):
        return []
    said = [*_far(duck, cfg, facts, log), *origin(duck, cfg, log)]
    with_query = duck.row(f"SELECT count(*) FILTER (query <> '') FROM read_parquet({text(log)})")[0]
    if not with_query:
        own = cfg.events.columns.get("query", "query")
        said.append(
            f"none of the {facts.rows:,} events has a query (column {own!r}), so the model learns "
            "from histories alone; if your log has queries, name their column in "
            "events.columns.query"
        )
    return said


def _far(duck: Duck, cfg: Config, facts: LogFacts, log: Path) -> list[str]:
    """Say that few events stand far before or after all others."""
    table = duck.table(
        f"""SELECT (ts - {facts.day0}) // {DAY_US} AS day, count(*) AS n
            FROM read_parquet({text(log)})
            GROUP BY 1 ORDER BY 1"""
    )
    days, counts = table.column("day").to_numpy(), table.column("n").to_numpy()
    after = np.cumsum(counts[::-1])[::-1]  # events from each day on
    said = []
    for place in np.flatnonzero(np.diff(days) > FAR_DAYS) + 1:
        late, early = int(after[place]), int(facts.rows - after[place])
        gap = int(days[place] - days[place - 1])
        before, next_day = (date_of(facts.day0 + int(days[p]) * DAY_US) for p in (place - 1, place))
        if late <= FAR_SHARE * facts.rows:
            said.append(
                f"the last {late:,} of {facts.rows:,} events, from {next_day} on, come {gap:,} "
                f"days after the day before ({before}), as a wrong clock writes them, and the test "
                "is the end of the log; leave them out, or set split: {unit: day, test_from: "
                f"{before}, test_days: 1}}"
            )
            break
        if early <= FAR_SHARE * facts.rows:
            said.append(
                f"the first {early:,} of {facts.rows:,} events, up to {before}, come {gap:,} days "
                f"before the next day ({next_day}), as a wrong clock writes them; leave them out"
            )
    return said


def of_windows(duck: Duck, split: Split, requests: Path) -> tuple[list[str], list[str]]:
    """Warnings and notes about training, validation and test: how many requests with a choice each
    has.
    """
    rows = duck.rows(
        f"""SELECT split, count(*), count(*) FILTER (list_max(actions) > 0)
            FROM read_parquet({text(requests)})
            GROUP BY 1"""
    )
    counts = {role: (total, chosen) for role, total, chosen in rows}
    everything = sum(chosen for _, chosen in counts.values())
    warnings, notes = [], []
    total, chosen = counts.get("train", (0, 0))
    if not chosen:
        warnings.append(
            f"none of the {total:,} training requests has a click, cart or order, so there is "
            "nothing to train on; check events.actions and the split"
        )
    for role, window in _WINDOWS.items():
        if role == "valid" and not split.validates:
            continue
        total, chosen = counts.get(role, (0, 0))
        if not chosen:
            warnings.append(
                f"none of the {total:,} requests of {window} has a click, cart or order, so "
                "nothing of it can be scored; check events.actions and the split"
            )
        elif chosen < 3 or (chosen < FEW and chosen < TINY_SHARE * everything):
            warnings.append(
                f"{window} has {chosen:,} of {everything:,} requests with a click, cart or order: "
                "too few to decide anything; change split.test_days, split.valid_days, "
                "split.test_from or take split.unit: fraction"
            )
        elif chosen < FEW:
            notes.append(
                f"{window} has {chosen:,} requests with a click, cart or order; below about {FEW} "
                "systems can hardly be told apart"
            )
    return warnings, notes


def of_reranking(duck: Duck, cfg: Config, requests: Path) -> list[str]:
    """A warning where `decode.rerank` asks for a weight that no request can be asked for: none has
    a query text.
    """
    if cfg.decode.rerank == "none":
        return []
    found = duck.rows(
        f"""SELECT split, count(*) FILTER (query <> '') FROM read_parquet({text(requests)})
            WHERE split IN ('train', 'valid') AND list_max(actions) > 0
            AND (query <> '' OR len(history) > 0)
            GROUP BY split ORDER BY split DESC"""
    )
    if found and found[0][1]:  # the validation window, or without one the training requests
        return []
    return [
        f"decode.rerank is {cfg.decode.rerank}, but no request of the validation window (without "
        "one: of training) has a query text and a choice to weigh the cosine on; there is no "
        "default weight, so the bundle will not rerank"
    ]


def of_lists(cfg: Config, lists: Json) -> list[str]:
    """Warnings about the lists that alignment learns from; the model's own mistakes (``beam``) come
    later.
    """
    total, without = lists["total"], lists["without_negatives"]
    if not total:
        return [
            (
                "no request gives a list for alignment: none has a click, cart or order and a "
                "query or history"
            )
        ]
    if cfg.preference.negatives == "beam" or without <= total / 2:
        return []
    how = (
        "all that was shown was chosen"
        if cfg.preference.negatives != "sampled"
        else "the catalogue has no other items"
    )
    if cfg.preference.negatives == "skip_above":
        how = "nothing stands above the lowest click"
    advice = "set preference.negatives: sampled (by popularity) or beam (the model's own mistakes)"
    if without == total:
        return [
            f"none of {total:,} lists has a negative ({how}), so alignment has nothing to compare "
            f"and only SFT learns from them; check events.actions, or {advice}"
        ]
    return [
        (
            f"{without:,} of {total:,} lists have no negative ({how}) and train SFT only; check "
            f"events.actions, or {advice}"
        )
    ]
