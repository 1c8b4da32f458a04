"""Reading a catalogue: raw columns → checked rows of :data:`~sidar.types.CATALOGUE_SCHEMA`.

Rows keep the source's order (files sorted by name, then record).  Left out, with reason and place:
items without an id or a title, and every repetition of an id (the first wins).  Missing prices,
brands, categories are normal; prices, stock and dates that are there and cannot be read become
missing and are counted.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sidar.config import Config
from sidar.data.catalogue import extend, found
from sidar.data.cleaning import clean
from sidar.data.cleaning.advice import unread_values
from sidar.data.cleaning.categories import attributes_json, category_path, suggested_separator
from sidar.data.cleaning.normalise import fold_text, unescape
from sidar.data.cleaning.quarantine import QUARANTINE_SCHEMA, Quarantine, Stopped, restored
from sidar.data.duck import Duck, name
from sidar.data.readers import open_items
from sidar.data.readers.source import ITEM_COLUMNS, Source
from sidar.types import CATALOGUE_SCHEMA, Catalogue


def read_catalogue(cfg: Config, previous: Catalogue | None = None) -> tuple[Catalogue, Quarantine]:
    """The catalogue that ``cfg.catalogue`` names, and what was left out of it.

    With ``previous`` the result continues its lineage: rows keep their numbers, retired items leave
    tombstones, new ones are appended (:func:`sidar.data.catalogue.extend`).  Raises ``ValueError``
    for an empty catalogue, for a column that the mapping misses, and when more than
    ``catalogue.bad_rows`` of the rows are malformed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sidar-catalogue-") as work,
        _open(cfg, Path(work)) as duck,
    ):
        return load_catalogue(duck, cfg, previous)


def load_catalogue(
    duck: Duck, cfg: Config, previous: Catalogue | None = None
) -> tuple[Catalogue, Quarantine]:
    """:func:`read_catalogue` on an open connection."""
    source = open_items(duck, cfg.catalogue)
    duck.run(f"CREATE OR REPLACE VIEW raw_items AS {source.sql}")
    _find_repeated(duck)
    _read_nested(duck, cfg)
    rows = f"""(SELECT *, {_FAULT} AS reason FROM raw_items LEFT JOIN repeated_items USING (file,
        place)
        LEFT JOIN nested_categories ON listed_category = category::VARCHAR
        LEFT JOIN nested_attributes ON listed_attributes = attributes::VARCHAR)"""

    quarantine = Quarantine(f"catalogue {cfg.catalogue.path}")
    for reason, file, count in duck.rows(f"SELECT reason, file, count(*) FROM {rows} GROUP BY ALL"):
        quarantine.total += count
        if reason is not None:
            quarantine.malformed[reason] += count
            quarantine.files[file] += count
    if quarantine.malformed:
        raw = ", ".join(f"{name(c)}: {name(c)}::VARCHAR" for c in ITEM_COLUMNS)
        bad = (
            f"SELECT file, place, reason, to_json({{{raw}}})::VARCHAR AS raw FROM {rows} WHERE "
            "reason IS NOT NULL"
        )
        quarantine.rows = duck.table(f"{restored(duck, bad, source)} ORDER BY file, place").cast(
            QUARANTINE_SCHEMA
        )
    quarantine.refuse(source)
    quarantine.check(cfg.catalogue.bad_rows, "catalogue.bad_rows")

    measured = _measured(duck, cfg)
    table = duck.table(
        f"SELECT {_typed(measured)} FROM {rows} WHERE reason IS NULL ORDER BY file, place"
    )
    if not len(table):
        raise Stopped(
            (
                f"{quarantine.source} holds no usable item ({quarantine.total:,} rows read); check "
                "the file"
            ),
            quarantine,
        )
    table, decoded = _decoded(table)
    quarantine.unread = (
        decoded
        + _unread(duck, cfg, source, rows, measured)
        + _unsplit(table, cfg.catalogue.category_separator)
    )
    table = table.append_column("alive", pa.repeat(pa.scalar(True), len(table))).cast(
        CATALOGUE_SCHEMA
    )
    return (found(table) if previous is None else extend(previous, table)), quarantine


#: Why a raw item cannot be used; NULL = it can.
_FAULT = f"""CASE WHEN {clean.present("item_id")} IS NULL THEN 'missing item_id'
    WHEN {clean.present("title")} IS NULL THEN 'missing title'
    WHEN again THEN 'duplicate item_id' END"""


def _find_repeated(duck: Duck) -> None:
    """Leave the table ``repeated_items (file, place, again)``: usable items whose id an earlier
    usable item has.
    """
    item = clean.present("item_id")
    duck.run(
        f"""CREATE OR REPLACE TABLE repeated_items AS
            WITH twice AS (SELECT {item} AS id FROM raw_items GROUP BY 1 HAVING count(*) > 1),
            usable AS (
                SELECT file, place, row_number() OVER (PARTITION BY {item} ORDER BY file,
                place) AS n
                FROM raw_items WHERE {item} IN (SELECT id
                FROM twice) AND {clean.present("title")} IS NOT NULL)
            SELECT file, place, true AS again FROM usable WHERE n > 1"""
    )


def _read_nested(duck: Duck, cfg: Config) -> None:
    """Leave what lists, objects and texts that look like them say, once for each different text.

    ``nested_categories (listed_category, category_path)`` and ``nested_attributes
    (listed_attributes, attributes_object)``; NULL where nothing can be read.
    """
    separator = cfg.catalogue.category_separator
    types = duck.columns("raw_items")
    looks = (
        r"regexp_matches(category, "
        r"'(?i)^\s*([\[(]\s*([''\"\[\]{(\d-]|(null|none|nan)\s*[,\])])|\{|array\()')"
    )
    categories = _different(duck, "category", looks if types["category"] == "VARCHAR" else "false")
    paths = {text: category_path(text, separator) for text in categories}
    plain = [text for text, found in paths.items() if found is None and not _NESTED.match(text)]
    for text in plain:  # such as "(Sale) Shoes"
        del paths[text]
    duck.register(
        "nested_categories",
        pa.table(
            {
                "listed_category": pa.array(list(paths), pa.string()),
                "category_path": pa.array(list(paths.values()), pa.list_(pa.string())),
            }
        ),
    )
    valid = "CASE WHEN json_valid(attributes) THEN json_type(attributes) = 'OBJECT' ELSE false END"
    attributes = _different(
        duck, "attributes", f"NOT ({valid})" if types["attributes"] == "VARCHAR" else "false"
    )
    duck.register(
        "nested_attributes",
        pa.table(
            {
                "listed_attributes": pa.array(attributes, pa.string()),
                "attributes_object": pa.array(
                    [attributes_json(text) for text in attributes], pa.string()
                ),
            }
        ),
    )


#: Texts that are meant as a list or an object, whether or not they can be read.
_NESTED = re.compile(r"(?i)\s*(?:\[\s*(?:['\"\[{(]|(?:null|none|nan)\s*[,\]])|\{|array\()")


def _different(duck: Duck, column: str, where: str) -> list[str]:
    found = duck.table(
        f"SELECT DISTINCT {column} AS text FROM raw_items WHERE {column} IS NOT NULL AND {where}"
    )
    return list(found.column("text").to_pylist())


def _measured(duck: Duck, cfg: Config) -> dict[str, str]:
    """{column: SQL of its value} of what may be there and unreadable, then NULL."""
    types = duck.columns("raw_items")
    split = clean.path("category", types["category"], cfg.catalogue.category_separator)
    unit = clean.time_unit(duck, "SELECT created FROM raw_items", "created") or "us"
    created = clean.micros("created", types["created"], unit)
    price = clean.number("price", types["price"], cfg.catalogue.decimal)
    return {
        "price": f"CASE WHEN {price} >= 0 THEN {price} / {cfg.catalogue.price_divisor!r} END",
        "in_stock": clean.flag("in_stock"),
        "created": f"CASE WHEN {clean.calendar(created)} THEN {created} END",
        "category": f"CASE WHEN listed_category IS NULL THEN {split} ELSE category_path END",
        "attributes": (
            "CASE WHEN listed_attributes IS NULL THEN attributes::VARCHAR ELSE "
            "attributes_object END"
        ),
    }


def _unread(
    duck: Duck, cfg: Config, source: Source, rows: str, measured: dict[str, str]
) -> list[str]:
    """What to tell of prices, stock and dates of usable rows that are there and
    could not be read.
    """
    parts = []
    for column, value in measured.items():
        bad = f"FILTER ({clean.present(column)} IS NOT NULL AND ({value}) IS NULL)"
        first = (
            f"arg_min({{value: {name(column)}::VARCHAR, file: file, place: place}}, (file, "
            f"place)) {bad}"
        )
        parts.append(f"count(*) {bad}, count({clean.present(column)}), {first}")
    found = duck.row(f"SELECT {', '.join(parts)} FROM {rows} WHERE reason IS NULL")
    said = []
    for i, (column, wanted) in enumerate(_WANTED.items()):
        count, there, example = found[3 * i : 3 * i + 3]
        if count:
            own = cfg.catalogue.columns.get(column, column)
            option = (
                "catalogue.decimal" if column == "price" and cfg.catalogue.decimal == "." else ""
            )
            said.append(unread_values(source, own, wanted, count, there, example, option))
    return said


#: What a column's values are read as.
_WANTED = {
    "price": "number of 0 or more",
    "in_stock": "yes or no",
    "created": "date from 1990 to 2100",
    "category": "path, nor a list or object of names",
    "attributes": "JSON object",
}


def _decoded(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """Return the items with HTML entities of titles, texts, brands and categories decoded, and what
    to tell of it.
    """
    counts, example = [], ""
    for column in ("title", "text", "brand", "category"):
        values = table.column(column)
        flat = pc.list_flatten(values) if column == "category" else values
        if not pc.any(pc.match_substring_regex(flat, _ENTITY)).as_py():
            continue
        before = values.to_pylist()
        after = [_without_entities(value) for value in before]
        changed = [old for old, new in zip(before, after, strict=True) if old != new]
        if changed:
            counts.append(f"{len(changed):,} values of {column!r}")
            example = (
                example or str(changed[0] if isinstance(changed[0], str) else changed[0][-1])[:80]
            )
            index = table.schema.get_field_index(column)
            table = table.set_column(index, column, pa.array(after, values.type))
    if not counts:
        return table, []
    return table, [f"HTML entities are decoded in {' and '.join(counts)}, e.g. {example!r}"]


def _without_entities(value: str | list[str] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return fold_text(unescape(value)) or value if value and "&" in value else value
    return [fold_text(unescape(part)) or part if "&" in part else part for part in value]


_ENTITY = "&(#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]+);"


def _unsplit(table: pa.Table, separator: str) -> list[str]:
    """Return what to tell of category texts that another separator than the configured one seems to
    cut.
    """
    longest = pc.max(pc.list_value_length(table.column("category"))).as_py()
    if longest != 1:
        return []
    names = pc.unique(pc.list_flatten(table.column("category"))).slice(0, _LOOKED_AT).to_pylist()
    other = suggested_separator(names)
    if not other:
        return []
    example = next(name for name in names if other in name)
    return [
        f"catalogue.category_separator {separator!r} occurs in no category, so every path has one "
        f"level, e.g. {example!r}; if these are paths, set catalogue.category_separator: {other!r}"
    ]


#: Different categories that are looked at for a separator.
_LOOKED_AT = 10_000


def _typed(measured: dict[str, str]) -> str:
    """The contract's columns, typed."""
    return f"""
        {clean.present("item_id")} AS item_id, coalesce({clean.prose("title")},
        {clean.present("title")}) AS title,
        coalesce({clean.prose("text")}, '') AS text,
        coalesce({measured["category"]}, []) AS category,
        {clean.prose("brand")} AS brand, {measured["price"]} AS price,
        {clean.present("image_url")} AS image_url, {measured["in_stock"]} AS in_stock,
        {measured["created"]} AS created,
        {measured["attributes"]} AS attributes"""


def _open(cfg: Config, work: Path) -> Duck:
    return Duck(work, cfg.events.memory, cfg.threads)
