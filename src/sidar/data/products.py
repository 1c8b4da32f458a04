"""Reading a catalogue: raw columns → checked rows of :data:`~sidar.types.CATALOGUE_SCHEMA`.

Rows keep the source's order (files sorted by name, then record).  Left out, with reason and place: items without an
id or a title, and every repetition of an id (the first wins).  Missing prices, brands, categories are normal; prices,
stock and dates that are there and cannot be read become missing and are counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from sidar.config import Config
from sidar.data import clean
from sidar.data.catalogue import extend, found
from sidar.data.duck import Duck, name
from sidar.data.quarantine import QUARANTINE_SCHEMA, Quarantine, Stopped, restored
from sidar.data.readers import open_items
from sidar.data.readers.source import ITEM_COLUMNS
from sidar.types import CATALOGUE_SCHEMA, Catalogue


def read_catalogue(cfg: Config, previous: Catalogue | None = None) -> tuple[Catalogue, Quarantine]:
    """The catalogue that ``cfg.catalogue`` names, and what was left out of it.

    With ``previous`` the result continues its lineage: rows keep their numbers, retired items leave tombstones, new
    ones are appended (:func:`sidar.data.catalogue.extend`).  Raises ``ValueError`` for an empty catalogue, for a
    column that the mapping misses, and when more than ``catalogue.bad_rows`` of the rows are malformed.
    """
    with tempfile.TemporaryDirectory(prefix="sidar-catalogue-") as work, _open(cfg, Path(work)) as duck:
        return load_catalogue(duck, cfg, previous)


def load_catalogue(duck: Duck, cfg: Config, previous: Catalogue | None = None) -> tuple[Catalogue, Quarantine]:
    """:func:`read_catalogue` on an open connection."""
    source = open_items(duck, cfg.catalogue)
    duck.run(f"CREATE OR REPLACE VIEW raw_items AS {source.sql}")
    _find_repeated(duck)
    rows = f"(SELECT *, {_FAULT} AS reason FROM raw_items LEFT JOIN repeated_items USING (file, place))"

    quarantine = Quarantine(f"catalogue {cfg.catalogue.path}")
    for reason, file, count in duck.rows(f"SELECT reason, file, count(*) FROM {rows} GROUP BY ALL"):
        quarantine.total += count
        if reason is not None:
            quarantine.malformed[reason] += count
            quarantine.files[file] += count
    if quarantine.malformed:
        raw = ", ".join(f"{name(c)}: {name(c)}::VARCHAR" for c in ITEM_COLUMNS)
        bad = f"SELECT file, place, reason, to_json({{{raw}}})::VARCHAR AS raw FROM {rows} WHERE reason IS NOT NULL"
        quarantine.rows = duck.table(f"{restored(duck, bad, source)} ORDER BY file, place").cast(QUARANTINE_SCHEMA)
    quarantine.refuse(source)
    quarantine.check(cfg.catalogue.bad_rows, "catalogue.bad_rows")

    measured = _measured(duck)
    table = duck.table(f"SELECT {_typed(duck, cfg, measured)} FROM {rows} WHERE reason IS NULL ORDER BY file, place")
    if not len(table):
        raise Stopped(
            f"{quarantine.source} holds no usable item ({quarantine.total:,} rows read); check the file", quarantine
        )
    quarantine.unread = _unread(duck, cfg, rows, measured)
    table = table.append_column("alive", pa.repeat(pa.scalar(True), len(table))).cast(CATALOGUE_SCHEMA)
    return (found(table) if previous is None else extend(previous, table)), quarantine


#: Why a raw item cannot be used; NULL = it can.
_FAULT = f"""CASE WHEN {clean.present("item_id")} IS NULL THEN 'missing item_id'
    WHEN {clean.present("title")} IS NULL THEN 'missing title' WHEN again THEN 'duplicate item_id' END"""


def _find_repeated(duck: Duck) -> None:
    """Leave the table ``repeated_items (file, place, again)``: usable items whose id an earlier usable item has."""
    item = clean.present("item_id")
    duck.run(
        f"""CREATE OR REPLACE TABLE repeated_items AS
            WITH twice AS (SELECT {item} AS id FROM raw_items GROUP BY 1 HAVING count(*) > 1),
            usable AS (
                SELECT file, place, row_number() OVER (PARTITION BY {item} ORDER BY file, place) AS n
                FROM raw_items WHERE {item} IN (SELECT id FROM twice) AND {clean.present("title")} IS NOT NULL)
            SELECT file, place, true AS again FROM usable WHERE n > 1"""
    )


def _measured(duck: Duck) -> dict[str, str]:
    """{column: SQL of its value} of price, stock and date, NULL where nothing can be read."""
    unit = clean.time_unit(duck, "SELECT created FROM raw_items", "created")
    created = clean.micros("created", duck.columns("raw_items")["created"], unit)
    price = clean.number("price")
    return {
        "price": f"CASE WHEN {price} >= 0 THEN {price} END",
        "in_stock": clean.flag("in_stock"),
        "created": f"CASE WHEN {clean.calendar(created)} THEN {created} END",
    }


def _unread(duck: Duck, cfg: Config, rows: str, measured: dict[str, str]) -> list[str]:
    """What to tell of prices, stock and dates of usable rows that are there and could not be read."""
    parts = []
    for column, value in measured.items():
        bad = f"FILTER ({clean.present(column)} IS NOT NULL AND ({value}) IS NULL)"
        first = f"arg_min({{value: {name(column)}::VARCHAR, file: file, place: place}}, (file, place)) {bad}"
        parts.append(f"count(*) {bad}, count({clean.present(column)}), {first}")
    found = duck.row(f"SELECT {', '.join(parts)} FROM {rows} WHERE reason IS NULL")
    said = []
    for i, (column, wanted) in enumerate(_WANTED.items()):
        count, there, example = found[3 * i : 3 * i + 3]
        if count:
            source = cfg.catalogue.columns.get(column, column)
            said.append(
                f"{count:,} of {there:,} values of {source!r} are no {wanted} and count as missing, e.g. "
                f"{example['value']!r} ({Path(example['file']).name}, record {example['place']:,})"
            )
    return said


#: What a column's values are read as.
_WANTED = {"price": "number of 0 or more", "in_stock": "yes or no", "created": "date from 1990 to 2100"}


def _typed(duck: Duck, cfg: Config, measured: dict[str, str]) -> str:
    """The contract's columns, typed."""
    types = duck.columns("raw_items")
    return f"""
        {clean.present("item_id")} AS item_id, coalesce({clean.prose("title")}, {clean.present("title")}) AS title,
        coalesce({clean.prose("text")}, '') AS text,
        {clean.path("category", types["category"], cfg.catalogue.category_separator)} AS category,
        {clean.prose("brand")} AS brand, {measured["price"]} AS price,
        {clean.present("image_url")} AS image_url, {measured["in_stock"]} AS in_stock,
        {measured["created"]} AS created,
        {clean.json("attributes", types["attributes"])} AS attributes"""


def _open(cfg: Config, work: Path) -> Duck:
    return Duck(work, cfg.events.memory, cfg.threads)
