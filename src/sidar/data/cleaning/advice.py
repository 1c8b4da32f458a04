"""What to tell of a source that was read and yet not used in full: unknown items, unmapped actions,
bad values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from sidar.data.cleaning.quarantine import Quarantine
from sidar.data.duck import Duck
from sidar.data.readers.source import Source
from sidar.types import ACTIONS, Catalogue, Json

#: Share of the rows whose items the catalogue lacks above which another cause is likelier than
#: retired items. [ours]
MANY_UNKNOWN = 0.1
#: What shops call the actions; only suggested, since a "view" is an impression in some and the
#: product page in others.
USUAL = {
    "impression": ("view", "seen", "shown", "show", "exposure", "expose", "pv", "imp", "display"),
    "click": ("tap", "open", "visit", "clk", "select", "detail"),
    "cart": ("basket", "add", "bag"),
    "order": (
        "buy",
        "bought",
        "purchased",
        "sale",
        "sold",
        "conversion",
        "checkout",
        "transaction",
        "pay",
    ),
}
_NAMED = 5


def unknown_items(duck: Duck, quarantine: Quarantine, catalogue: Catalogue) -> str:
    """A warning where more than :data:`MANY_UNKNOWN` of the rows with known actions name unknown
    items; else "".
    """
    rows = quarantine.total - sum(quarantine.ignored.values())
    if quarantine.unknown <= MANY_UNKNOWN * rows:
        return ""
    example, count = duck.row(
        """SELECT item_id, count(*) FROM judged_events WHERE verdict = 'unknown item'
           GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"""
    )
    alive = catalogue.table.filter(catalogue.table.column("alive")).column("item_id")
    return (
        f"{quarantine.unknown:,} of {rows:,} event rows ({quarantine.unknown / rows:.0%}) name "
        f"items that the catalogue does not have, e.g. {example!r} ({count:,} rows); an id of the "
        f"catalogue is {alive[0].as_py()!r}. These rows are not used. Likely causes: another kind "
        "of id (events.columns.item_id, catalogue.columns.item_id), leading zeros that one of the "
        "files lost, an old or partial catalogue, items that were retired"
    )


def unread_values(
    source: Source,
    column: str,
    wanted: str,
    count: int,
    there: int,
    first: Json,
    decimal: str = "",
) -> str:
    """Say that ``count`` of ``there`` values of a source's ``column`` are not what is ``wanted``.

    ``first`` is the first of them (``value``, ``file``, ``place``); ``decimal`` is the option of
    the decimal mark where a comma before the fraction may be the cause.
    """
    comma = decimal and re.search(r",\d{1,2}\D*$", first["value"])
    return (
        f"{count:,} of {there:,} values of {column!r} are no {wanted} and count as missing, e.g. "
        f"{first['value']!r} ({Path(first['file']).name}, record "
        f"{source.record(first['file'], first['place']):,})"
        + (f"; where a comma stands before the cents, set {decimal}: ','" if comma else "")
    )


def unmapped_actions(ignored: Mapping[str, int]) -> str:
    """Which actions nothing maps, with their rows, and the config that maps them; "" where there
    are none.
    """
    if not ignored:
        return ""
    most = sorted(ignored.items(), key=lambda each: (-each[1], each[0]))
    named = ", ".join(
        f"{action} ({count:,} row{'s' * (count != 1)})" for action, count in most[:_NAMED]
    )
    more = f" and {len(most) - _NAMED} more" if len(most) > _NAMED else ""
    return (
        f"actions that nothing maps: {named}{more}; map each to {', '.join(ACTIONS[:-1])} or "
        f"{ACTIONS[-1]}, e.g. events.actions: {_mapping(action for action, _ in most[:_NAMED])}"
    )


def _mapping(actions: Iterable[str]) -> str:
    """A YAML mapping of ``actions`` to what their names suggest; of those that suggest nothing, to
    an impression.
    """
    known = {word: action for action, words in USUAL.items() for word in words}
    meant = {action: known.get(action, "") for action in actions}
    sure = {action: target for action, target in meant.items() if target}
    shown = sure or dict.fromkeys(meant, "impression")
    return yaml.safe_dump(
        shown, default_flow_style=True, sort_keys=False, width=1000, allow_unicode=True
    ).strip()
