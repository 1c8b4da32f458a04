"""Which channels delivered what was shown, clicked and ordered, and which of it they delivered
alone.

The log's column ``channels`` names, for a shown item, every channel (``bm25``, ``dense``,
``generative`` …) whose candidates held it.  A channel's *share* counts the items that it delivered,
its *exclusive share* those that no other channel delivered: what would have been lost without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from sidar.ab.events import CLICK, IMPRESSION, ORDER
from sidar.data.cleaning.categories import parsed
from sidar.data.duck import Duck, text

#: Entries of ``channels`` that name a team of an interleaved list (:mod:`sidar.ab.interleave`).
TEAM = "team:"
#: Different values of the column above which it holds something else.
MOST_SETS = 10_000
KINDS = {"exposures": IMPRESSION, "clicks": CLICK, "orders": ORDER}
_SEPARATOR = re.compile(r"[\s,;|]+")


@dataclass(frozen=True)
class ChannelShares:
    """Shares of one channel, by kind of event: delivered, and delivered alone."""

    channel: str
    share: dict[str, float]
    exclusive: dict[str, float]


@dataclass(frozen=True)
class ChannelReport:
    """Shares in one bucket, or in all of the log.

    ``known`` counts items with channels, which are what shares refer to; ``unknown`` those without.
    """

    group: str
    known: dict[str, int]
    unknown: dict[str, int]
    channels: list[ChannelShares]


def channel_names(written: str) -> list[str]:
    """Return the names in a value of ``channels``: a list as JSON or Python prints it, or names
    with blanks, commas, semicolons or bars between them.
    """
    value = parsed(written)
    names = value if isinstance(value, list) else _SEPARATOR.split(written)
    return sorted({str(name).strip() for name in names if str(name).strip()})


def read_channels(duck: Duck) -> list[str]:
    """Leave the table ``ab_items`` and return the channels of the log, teams left out.

    ``ab_items (user_id, request, item_id, shown, clicked, ordered, names, teams)`` has one row per
    item of a request: moments or null, and two sorted lists.  An order without channels has those
    of the user's last request with the item.
    """
    texts = duck.rows("SELECT DISTINCT channels FROM ab_events WHERE channels IS NOT NULL")
    if len(texts) > MOST_SETS:
        raise ValueError(
            f"the column of events.columns.channels has more than {MOST_SETS:,} different values; "
            "it should list the few channels that delivered an item, e.g. bm25,dense"
        )
    named = {written: channel_names(written) for (written,) in texts}
    column = pa.array([names or None for names in named.values()], pa.list_(pa.string()))
    duck.register("channel_sets", pa.table({"channels": list(named), "names": column}))
    first = ", ".join(
        f"min(ts) FILTER (action = {code}) AS {moment}"
        for moment, code in (("shown", IMPRESSION), ("clicked", CLICK), ("ordered", ORDER))
    )
    duck.run(
        f"""CREATE OR REPLACE TABLE named_items AS
            SELECT user_id, request, item_id, min(ts) AS ts, {first},
                list_sort(list_distinct(flatten(list(names) FILTER (names IS NOT NULL)))) AS names
            FROM ab_events LEFT JOIN channel_sets USING (channels) GROUP BY ALL"""
    )
    duck.run(
        f"""CREATE OR REPLACE TABLE ab_items AS
            WITH filled AS (
                SELECT i.* EXCLUDE (names), coalesce(i.names, CASE WHEN i.ordered IS NOT NULL
                    AND i.user_id <> '' THEN earlier.names END, []) AS names
                FROM named_items i ASOF LEFT JOIN
                    (SELECT user_id, item_id, ts, names FROM named_items WHERE names IS NOT NULL)
                    earlier
                ON i.user_id = earlier.user_id AND i.item_id = earlier.item_id
                    AND i.ts >= earlier.ts)
            SELECT * EXCLUDE (names),
                list_filter(names, lambda c: NOT starts_with(c, {text(TEAM)})) AS names,
                list_filter(names, lambda c: starts_with(c, {text(TEAM)})) AS teams
            FROM filled"""
    )
    rows = duck.rows("SELECT DISTINCT unnest(names) AS name FROM ab_items ORDER BY name")
    return [row[0] for row in rows]


def channel_report(duck: Duck, channels: Sequence[str], group: str, where: str) -> ChannelReport:
    """Return the shares of ``channels`` among the rows of ``ab_items`` where ``where`` holds."""
    moments = dict(zip(KINDS, ("shown", "clicked", "ordered"), strict=True))
    counts: dict[str, dict[tuple[str, ...], int]] = {}
    for kind, moment in moments.items():
        rows = duck.rows(
            f"""SELECT names, count(*) FROM ab_items
                WHERE {moment} IS NOT NULL AND {where} GROUP BY ALL"""
        )
        counts[kind] = {tuple(names): count for names, count in rows}
    unknown = {kind: sets.pop((), 0) for kind, sets in counts.items()}
    known = {kind: sum(sets.values()) for kind, sets in counts.items()}
    shares = []
    for channel in channels:
        delivered = {
            kind: sum(count for names, count in sets.items() if channel in names)
            for kind, sets in counts.items()
        }
        alone = {kind: sets.get((channel,), 0) for kind, sets in counts.items()}
        shares.append(
            ChannelShares(channel, _shares_of(delivered, known), _shares_of(alone, known))
        )
    return ChannelReport(group, known, unknown, shares)


def _shares_of(counts: dict[str, int], known: dict[str, int]) -> dict[str, float]:
    """Return shares; NaN where there is nothing to share."""
    return {
        kind: count / known[kind] if known[kind] else float("nan") for kind, count in counts.items()
    }
