"""JDsearch (Liu et al., SIGIR 2023): anonymised product search of JD.com; two tab-separated files
without header.

``product_data.txt``: wid, name, brand_id, brand_name, then cate_id and cate_name for levels 1–4,
shop_id. ``release_data.txt``, one user per line: query, candidate_wid_list, candidate_label_list (0
none, 1 click, 2 cart, 3 order), history_qry_list, history_wid_list, history_type_list (CLICK, CART,
ORD, FLW), history_time_list (gaps since the previous behaviour; one more than the other lists, the
last is the test query's).  Lists join their elements with ``_``, texts their term ids with the
control character 0x18; ``-1`` is a behaviour without a query.  Layout [known]: the dataset's own
description.  **Uncertain**: the unit of the gaps (read as seconds on each user's own clock).

A run of equal queries in a history is one request, a behaviour without a query is one of its own;
the last request is the test query with its candidates.  Use ``split.unit: leave_one_out``.  Follows
(FLW) are ignored and counted unless ``events.actions`` maps them.
"""

from __future__ import annotations

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.duck import Duck, files, name
from sidar.data.readers.source import Source, find_files
from sidar.data.readers.staging import stage_fields

_LEVELS = range(1, 5)
_CATEGORIES = tuple(f"{field}_{n}" for n in _LEVELS for field in ("cate_id", "cate_name"))
PRODUCT_FIELDS = ("wid", "name", "brand_id", "brand_name", *_CATEGORIES, "shop_id")
RELEASE_FIELDS = ("query", "wids", "labels", "past_queries", "past_wids", "past_types", "past_gaps")


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The products; titles are term ids separated by spaces, category names likewise (ids where a
    name is missing).
    """
    source = Source("")
    paths = find_files(config.path, ("product_data.txt",), "JDsearch", "catalogue.path")
    staged = [stage_fields(duck, path, PRODUCT_FIELDS, source) for path in paths]
    levels = ", ".join(
        f"coalesce(nullif({_terms(f'cate_name_{n}')}, ''), cate_id_{n})" for n in _LEVELS
    )
    source.sql = f"""
        SELECT wid AS item_id, {_terms("name")} AS title, NULL::VARCHAR AS text, [{levels}]
        AS category,
            coalesce(nullif({_terms("brand_name")}, ''), brand_id) AS brand, NULL::DOUBLE AS price,
            NULL::VARCHAR AS image_url, NULL::VARCHAR AS in_stock, NULL::VARCHAR AS created,
            to_json({{shop: shop_id}})::VARCHAR AS attributes, file, place
        FROM read_parquet({files(staged)})"""
    return source


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """Histories and test queries of all users as one log."""
    source = Source("", clock="s", actions={"ord": "order"})
    paths = find_files(config.path, ("release_data.txt",), "JDsearch", "events.path")
    staged = [stage_fields(duck, path, RELEASE_FIELDS, source) for path in paths]
    gaps = (
        "list_transform(string_split(past_gaps, '_'), lambda g: coalesce(try_cast(g AS DOUBLE), 0))"
    )
    duck.run(
        f"""CREATE OR REPLACE VIEW jd_users AS
            SELECT *, 'jd' || place AS user_id, {gaps} AS gaps, string_split(coalesce(past_wids,
            ''), '_') AS past
            FROM read_parquet({files(staged)})"""
    )
    past = f"""
        SELECT user_id, file, place, step, {_terms("said")} AS query, item_id, 0 AS position,
        kind AS action,
            list_sum(gaps[:step]) AS ts,
            sum(CASE WHEN said = '-1' OR said IS DISTINCT FROM before THEN 1 ELSE 0 END)
                OVER (PARTITION BY user_id ORDER BY step) AS run
        FROM (SELECT *, lag(said) OVER (PARTITION BY user_id ORDER BY step) AS before
              FROM (SELECT user_id, file, place, gaps, unnest(past) AS item_id,
                        unnest(string_split(past_queries, '_')) AS said,
                        unnest(string_split(past_types, '_')) AS kind,
                        unnest(range(1, len(past) + 1)) AS step
                    FROM jd_users WHERE coalesce(past_wids, '') <> ''))"""
    asked = f"""
        SELECT user_id, file, place, spot AS step, {_terms("query")} AS query, item_id,
        spot AS position,
            CASE try_cast(label AS DOUBLE) WHEN 0 THEN 'impression' WHEN 1 THEN 'click'
            WHEN 2 THEN 'cart'
                WHEN 3 THEN 'order' ELSE label END AS action,
            list_sum(gaps) AS ts, 0 AS run
        FROM (SELECT *, unnest(string_split(wids, '_')) AS item_id, unnest(string_split(labels,
        '_')) AS label,
                  unnest(range(1, len(string_split(wids, '_')) + 1)) AS spot FROM jd_users)"""
    columns = "user_id, file, place, query, item_id, position, action, ts, run"
    source.sql = f"""
        SELECT ts, user_id, NULL::VARCHAR AS session_id, user_id || '-' || run AS request_id,
        query, item_id, position,
            action, NULL::DOUBLE AS value, NULL::DOUBLE AS dwell_s, NULL::VARCHAR AS bucket, file,
            place
        FROM (SELECT {columns} FROM ({past}) UNION ALL SELECT {columns} FROM ({asked}))"""
    return source


def _terms(column: str) -> str:
    """Term ids separated by spaces; the mark of a missing query becomes empty."""
    return f"CASE WHEN {name(column)} = '-1' THEN '' ELSE replace({name(column)}, chr(24), ' ') END"
