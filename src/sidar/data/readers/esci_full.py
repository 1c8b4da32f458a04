"""The full Shopping Queries dataset (amazon-science/esci-data, arXiv 2206.06588): two Parquet
files.

``shopping_queries_dataset_products.parquet``: product_id, product_title, product_description,
product_bullet_point, product_brand, product_color, product_locale.
``shopping_queries_dataset_examples.parquet``: example_id, query, query_id, product_id,
product_locale, esci_label (E, S, C, I), small_version, large_version, split (train, test). Layout
[known]: the published files' own columns.

There is no behaviour in it.  As a *log* its judgments stand in for clicks: one request per query
without user or position, label E a click and S, C, I impressions (change it with
``events.actions``).  Its own split is kept by day: train queries fall on days 1–7 (one in twenty of
them, by query id, on day 7 = validation), test queries on day 8 [reconstruction].  Say so wherever
numbers made from it appear.
"""

from __future__ import annotations

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.duck import Duck, text
from sidar.data.readers.source import FILE, PLACE, Source, find_files
from sidar.data.readers.typed import Roles, typed_rows

DAY_S = 86_400


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The products of ``catalogue.locale``; the colour goes to ``attributes``."""
    found = [
        p
        for p in find_files(config.path, (".parquet",), "ESCI", "catalogue.path")
        if "examples" not in p.name
    ]
    reading = _reading(
        duck, found, ("product_id", "product_title", "product_locale"), "catalogue.path"
    )
    return Source(
        f"""SELECT product_id AS item_id, product_title AS title,
                concat_ws(' ', product_bullet_point, product_description) AS text, NULL::VARCHAR
                AS category,
                product_brand AS brand, NULL::DOUBLE AS price, NULL::VARCHAR AS image_url,
                NULL::VARCHAR AS in_stock,
                NULL::VARCHAR AS created, CASE
                WHEN product_color <> '' THEN to_json({{color: product_color}}) END
                    ::VARCHAR AS attributes, file, place
            FROM {reading} WHERE product_locale = {text(config.locale)}"""
    )


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """The judgments of ``events.locale`` as a log on the data's own clock (seconds,
    day 1 at zero).
    """
    found = [
        p
        for p in find_files(config.path, (".parquet",), "ESCI", "events.path")
        if "products" not in p.name
    ]
    needed = ("query", "query_id", "product_id", "product_locale", "esci_label", "split")
    reading = _reading(duck, found, needed, "events.path")
    day = (
        "CASE WHEN split = 'test' THEN 7 WHEN query_id::BIGINT % 20 = 0 THEN 6 ELSE "
        "query_id::BIGINT % 6 END"
    )
    return Source(
        f"""SELECT ({day}) * {DAY_S} AS ts, NULL::VARCHAR AS user_id, NULL::VARCHAR AS session_id,
                'esci-' || query_id AS request_id, query, product_id AS item_id, 0 AS position,
                esci_label AS action,
                NULL::DOUBLE AS value, NULL::DOUBLE AS dwell_s, NULL::VARCHAR AS bucket, file, place
            FROM {reading} WHERE product_locale = {text(config.locale)}""",
        clock="s",
        actions={
            "e": "click", "s": "impression", "c": "impression", "i": "impression",
            "exact": "click", "substitute": "impression", "complement": "impression",
            "irrelevant": "impression",
        },
    )  # fmt: skip


def _reading(duck: Duck, paths: list, needed: tuple[str, ...], option: str) -> str:
    """Return SQL of all rows with ``file`` and ``place``, ids as text whatever stored them."""
    inner, have = typed_rows(duck, paths, Roles())
    missing = [c for c in needed if c not in have]
    if missing:
        raise ValueError(
            f"{option}: {paths[0]} is no ESCI file: it lacks the column {missing[0]!r}"
        )
    return f"(SELECT *, {FILE} AS file, {PLACE} AS place FROM ({inner}))"
