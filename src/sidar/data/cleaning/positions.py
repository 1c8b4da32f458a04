"""Where positions start: 1 is the top of a list and 0 is unknown, and many logs count from 0.

Each function returns sentences; ``events.first_position`` is what corrects them.
"""

from __future__ import annotations

from pathlib import Path

from sidar.config import Config
from sidar.data.duck import Duck, text

#: Share of the lists that must look alike before an origin is suspected. [ours]
MOST = 0.8


def origin(duck: Duck, cfg: Config, log: Path) -> list[str]:
    """Warnings where positions look as if they counted from another place than
    ``events.first_position`` says.
    """
    return _of_lists(duck, cfg, log) or _of_clicks(duck, cfg, log)


def _of_lists(duck: Duck, cfg: Config, log: Path) -> list[str]:
    """Look at what was shown: full lists have exactly one item at the first place."""
    group = "user_id, coalesce(request_id, concat_ws('/', session_id, query, ts // 1800000000))"
    lists, from_zero, from_two, zeros = duck.row(
        f"""SELECT count(*), count(*) FILTER (zero = 1 AND one = 1), count(*) FILTER (zero = 0
            AND least = 2),
                sum(zeros)
            FROM (SELECT count(DISTINCT row) FILTER (position = 0) AS zero,
            count(*) FILTER (position = 0) AS zeros,
                      count(DISTINCT row) FILTER (position = 1) AS one, min(position) AS least
                  FROM read_parquet({text(log)}) WHERE action = 0
                  GROUP BY {group} HAVING max(position) > 0)"""
    )
    if lists and from_zero >= MOST * lists and cfg.events.first_position is None:
        return [
            f"position 0 in {zeros:,} rows means unknown, but {from_zero:,} of {lists:,} lists "
            "have exactly one item at 0 and one at 1; if yours start at 0, set "
            "events.first_position: 0 (1 if they do not)"
        ]
    if (
        lists
        and from_two >= MOST * lists
        and cfg.events.format == "ubi"
        and cfg.events.first_position is None
    ):
        return [_ordinals(f"{from_two:,} of {lists:,} lists")]
    return []


def _of_clicks(duck: Duck, cfg: Config, log: Path) -> list[str]:
    """Compare clicks with what was shown; where nothing shown has a position, look at the clicks
    alone.
    """
    source = f"read_parquet({text(log)})"
    both, before, after = duck.row(
        f"""SELECT count(*), count(*) FILTER (c = s - 1), count(*) FILTER (c = s + 1)
            FROM (SELECT min(position) FILTER (action = 0 AND position > 0) AS s,
                      min(position) FILTER (action > 0 AND position > 0) AS c
                  FROM {source} WHERE request_id IS NOT NULL GROUP BY user_id, request_id, row)
            WHERE s IS NOT NULL AND c IS NOT NULL"""
    )
    if both and before >= MOST * both:
        return [
            f"{before:,} of {both:,} clicked items have a position one less in the click than "
            "where they were shown, so clicks and impressions count from different places; write "
            "both from 1"
        ]
    if both and after >= MOST * both:
        if cfg.events.format == "ubi" and cfg.events.first_position is None:
            return [_ordinals(f"{after:,} of {both:,} clicked items")]
        return [
            f"{after:,} of {both:,} clicked items have a position one more in the click than where "
            "they were shown, so clicks and impressions count from different places; write both "
            "from 1"
        ]
    shown, zeros, ones, clicked = duck.row(
        f"""SELECT count(*) FILTER (action = 0 AND position > 0), count(*) FILTER (action > 0
            AND position = 0),
                count(*) FILTER (action > 0 AND position = 1), count(*) FILTER (action > 0
                AND position > 0)
            FROM {source}"""
    )
    # clicks alone: the first place has the most of them
    if (
        not shown
        and clicked
        and cfg.events.first_position is None
        and cfg.events.format == "tabular"
        and zeros > ones
    ):
        return [
            f"position 0 in {zeros:,} rows means unknown, and {clicked:,} rows have positions from "
            "1 on; if yours start at 0, set events.first_position: 0 (1 if they do not)"
        ]
    return []


def _ordinals(what: str) -> str:
    return (
        f"{what} look as if position.ordinal counted from 1, but UBI's ordinals count from 0; if "
        "yours start at 1, set events.first_position: 1 (0 if they do not)"
    )
