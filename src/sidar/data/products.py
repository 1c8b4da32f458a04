"""Reading a catalogue: raw columns → checked rows of :data:`~sidar.types.CATALOGUE_SCHEMA`.

Rows keep the source's order (files sorted by name, then record).  Left out, with reason and place: items without an
id or a title, and every repetition of an id (the first wins).  Missing prices, brands, categories are normal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from sidar.config import Config
from sidar.data import clean
from sidar.data.catalogue import extend, found
from sidar.data.duck import Duck, name
from sidar.data.quarantine import QUARANTINE_SCHEMA, Quarantine, restored
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
    staged = duck.work / "items.parquet"
    duck.export(_checked(duck, cfg), staged)
    rows = f"read_parquet('{staged}')"

    quarantine = Quarantine(f"catalogue {cfg.catalogue.path}")
    quarantine.total = duck.row(f"SELECT count(*) FROM {rows}")[0]
    quarantine.refuse(source)
    counted = f"SELECT reason, file, count(*) FROM {rows} WHERE reason IS NOT NULL GROUP BY ALL"
    for reason, file, count in duck.rows(counted):
        quarantine.malformed[reason] += count
        quarantine.files[file] += count
    if quarantine.malformed:
        bad = f"SELECT file, place, reason, raw FROM {rows} WHERE reason IS NOT NULL"
        refused = duck.table(f"{restored(duck, bad, source)} ORDER BY file, place").cast(QUARANTINE_SCHEMA)
        quarantine.rows = pa.concat_tables([quarantine.rows, refused])
    quarantine.check(cfg.catalogue.bad_rows, "catalogue.bad_rows")

    columns = ", ".join(name(c) for c in ITEM_COLUMNS)
    table = duck.table(f"SELECT {columns} FROM {rows} WHERE reason IS NULL ORDER BY file, place")
    staged.unlink()
    if not len(table):
        raise ValueError(f"{quarantine.source} holds no usable item ({quarantine.total:,} rows read); check the file")
    table = table.append_column("alive", pa.repeat(pa.scalar(True), len(table))).cast(CATALOGUE_SCHEMA)
    return (found(table) if previous is None else extend(previous, table)), quarantine


def _checked(duck: Duck, cfg: Config) -> str:
    types = duck.columns("raw_items")
    unit = clean.time_unit(duck, "SELECT created FROM raw_items", "created")
    created = clean.micros("created", types["created"], unit)
    price = clean.number("price")
    raw = ", ".join(f"{name(c)}: {name(c)}::VARCHAR" for c in ITEM_COLUMNS)
    return f"""
        WITH typed AS (
            SELECT {clean.present("item_id")} AS item_id, {clean.prose("title")} AS title,
                coalesce({clean.prose("text")}, '') AS text,
                {clean.path("category", types["category"], cfg.catalogue.category_separator)} AS category,
                {clean.prose("brand")} AS brand,
                CASE WHEN {price} >= 0 THEN {price} END AS price,
                {clean.present("image_url")} AS image_url,
                {clean.flag("in_stock")} AS in_stock,
                CASE WHEN {clean.calendar(created)} THEN {created} END AS created,
                {clean.json("attributes", types["attributes"])} AS attributes,
                file, place, to_json({{{raw}}})::VARCHAR AS raw
            FROM raw_items),
        judged AS (
            SELECT *, CASE WHEN item_id IS NULL THEN 'missing item_id'
                WHEN title IS NULL THEN 'missing title' END AS fault
            FROM typed)
        SELECT * EXCLUDE (fault, raw), coalesce(fault, repeated) AS reason,
            CASE WHEN reason IS NOT NULL THEN raw END AS raw
        FROM (SELECT *, CASE WHEN fault IS NULL AND row_number() OVER (
                  PARTITION BY item_id, fault IS NULL ORDER BY file, place) > 1 THEN 'duplicate item_id' END AS repeated
              FROM judged)"""


def _open(cfg: Config, work: Path) -> Duck:
    return Duck(work, cfg.events.memory, cfg.threads)
