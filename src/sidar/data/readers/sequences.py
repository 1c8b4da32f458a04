"""User → items: next-item recommendation as search with an empty query.

Items: a JSON object ``{item: {title, description, brand, categories}}`` (``*.item.json``;
``categories`` is one text, comma-separated) or any tabular file.  Sequences: a JSON object ``{user:
[item, …]}`` (``*.inter.json``) or Parquet / JSONL rows with a user and a list, in time order; map
them with ``events.columns: {user_id: …, item_id: …}``.

Every step of a sequence is a request with an empty query and one click; its time is its place in
the sequence, so that the history before it is exactly the items before it.  Use ``split.unit:
leave_one_out`` and, since nothing says what was shown, ``preference.negatives: sampled`` or
``beam``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.duck import Duck, name
from sidar.data.readers.json_files import read_json
from sidar.data.readers.source import FILE, ITEM_COLUMNS, PLACE, Source, find_files
from sidar.data.readers.tabular import SUFFIXES, open_files, open_table
from sidar.data.readers.typed import Roles


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The items; ``catalogue.columns`` maps JSON fields (default: description → text, categories →
    category).
    """
    paths = find_files(config.path, (".item.json",), "item", "catalogue.path")
    if not paths[0].name.endswith(".json"):
        return open_table(
            duck, config.path, config.columns, ITEM_COLUMNS, ("item_id", "title"), "catalogue"
        )
    own = {"text": "description", "category": "categories", **config.columns}
    columns: dict[str, list] = {column: [] for column in (*ITEM_COLUMNS, "file", "place")}
    for path in paths:
        for place, (item_id, fields) in enumerate(_object(path).items(), start=1):
            values = fields if isinstance(fields, dict) else {}
            for column in ITEM_COLUMNS[1:]:
                value = values.get(own.get(column, column))
                if column == "category":
                    value = (
                        [p.strip() for p in value.split(",")]
                        if isinstance(value, str)
                        else value or []
                    )
                columns[column].append(
                    value if value is None or column == "category" else str(value)
                )
            columns["item_id"].append(item_id)
            columns["file"].append(str(path))
            columns["place"].append(place)
    types = {"category": pa.list_(pa.string()), "place": pa.int64()}
    table = pa.table({c: pa.array(v, types.get(c, pa.string())) for c, v in columns.items()})
    duck.register("sequence_items", table)
    return Source("SELECT * FROM sequence_items")


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """The sequences as clicks on a clock of one second per step."""
    source = Source("", clock="s")
    paths = find_files(config.path, (".inter.json", *SUFFIXES), "sequence", "events.path")
    whole = [path for path in paths if path.suffix == ".json"]
    if whole:  # a folder's other files are then something else: items, or an earlier run
        duck.register("sequence_steps", pa.concat_tables([_flattened(path) for path in whole]))
        relation = "sequence_steps"
    else:
        user, items = (
            config.columns.get("user_id", "user_id"),
            config.columns.get("item_id", "items"),
        )
        roles = Roles([user, items], nested=frozenset({items}))
        open_files(duck, config.path, roles.columns, "events", "sequence_rows", source, roles)
        have = duck.columns("sequence_rows")
        missing = [c for c in (user, items) if c not in have]
        if missing:
            raise ValueError(
                f"events.columns: {paths[0]} has no column {missing[0]!r}; it has "
                f"{', '.join(source.columns)}"
            )
        elements = f"from_json({name(items)}, '[\"VARCHAR\"]')"
        listed = (
            f"list_transform({elements}, lambda e: regexp_replace(e, '^(-?\\d+)\\.0+$', '\\1'))"
        )
        relation = f"""(SELECT user_id, unnest(items)::VARCHAR AS item_id, file, place,
                generate_subscripts(items, 1) - 1 AS step
            FROM (SELECT {name(user)}::VARCHAR AS user_id, {listed} AS items, {FILE} AS file,
            {PLACE} AS place
                  FROM sequence_rows))"""
    # not from the user id, which is to be hidden
    request = "left(md5(file), 6) || '-' || place || '-' || step"
    source.sql = f"""
        SELECT step AS ts, user_id, NULL::VARCHAR AS session_id, {request} AS request_id,
        '' AS query, item_id,
            0 AS position, 'click' AS action, NULL::DOUBLE AS value, NULL::DOUBLE AS dwell_s,
            NULL::VARCHAR AS bucket, file, place
        FROM {relation}"""
    return source


def _flattened(path: Path) -> pa.Table:
    """``{user: [item, …]}`` → one row per step; a JSON object has to be parsed whole."""
    sequences = _object(path)
    wrong = next((user for user, items in sequences.items() if not isinstance(items, list)), None)
    if wrong is not None:
        raise ValueError(f"{path}: the value of user {wrong!r} is no list of items")
    lengths = np.fromiter(map(len, sequences.values()), dtype=np.int64, count=len(sequences))
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return pa.table(
        {
            "user_id": pa.array(list(sequences), pa.string()).take(
                np.repeat(np.arange(len(lengths)), lengths)
            ),
            "item_id": pa.array(
                [str(item) for items in sequences.values() for item in items], pa.string()
            ),
            "step": np.arange(int(lengths.sum())) - starts,
            "file": pa.repeat(pa.scalar(str(path)), int(lengths.sum())),
            "place": np.repeat(np.arange(1, len(lengths) + 1), lengths),
        }
    )


def _object(path: Path) -> dict:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; want one that maps ids to values")
    return value
