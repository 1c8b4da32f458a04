"""KuaiSearch (arXiv 2602.11518): real queries of Kuaishou with what was shown, clicked and bought;
JSONL files.

Items (``items*/``): item_id, item_title, brand_name, seller_name, category_level1_name …
category_level3_name. Log, either table: *recall* rows (``recall*/``) with user_id, session_id,
query, time_index and the lists impressed_item_ids, clicked_item_ids, purchased_item_ids; or *rank*
rows (``rank*/``) with the same keys, target_item_id, is_clicked and is_purchased.  Layout: the
released demo rows and schema table [known]; **uncertain**: the unit of ``time_index`` (read as
seconds on the data's own clock; set ``events.ts_unit`` if you know better) and the order of the
impressed items (clicked ones come first in the demo, so it is not the display order: positions are
unknown).
"""

from __future__ import annotations

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.cleaning.clean import whole_id
from sidar.data.duck import Duck, files
from sidar.data.readers.json_files import stage_lines
from sidar.data.readers.source import Source, find_files

SUFFIXES = (".jsonl", ".jsonl.gz")


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The items; the seller goes to ``attributes``."""
    source = Source("")
    lines = _lines(duck, config.path, "catalogue.path", source)
    path = ", ".join(_text(f"category_level{level}_name") for level in (1, 2, 3))
    source.sql = f"""
        SELECT {_id("item_id")} AS item_id, coalesce({_text("item_title")}, {_text("title")})
        AS title,
            NULL::VARCHAR AS text, [{path}] AS category, coalesce({_text("brand_name")},
            {_text("brand")}) AS brand,
            {_text("price")} AS price, NULL::VARCHAR AS image_url, NULL::VARCHAR AS in_stock,
            NULL::VARCHAR AS created,
            to_json({{seller: {_text("seller_name")}}})::VARCHAR AS attributes, file, place
        FROM {lines}"""
    return source


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """Impressions, clicks and orders of recall or rank rows; a request is a user's session, query
    and time.
    """
    source = Source("", clock="s")
    lines = _lines(duck, config.path, "events.path", source)
    parts = (_id("user_id"), _id("session_id"), _id("time_index"), _text("query"))
    key = ", ".join(parts)
    request = f"md5(concat_ws('/', {key}))"  # hides the user id in it
    item = _id("target_item_id")
    target = f"CASE WHEN {item} IS NOT NULL THEN [{item}] ELSE [] END"
    shown, clicked, bought = (
        f"coalesce({_ids(listed)}, {single})"
        for listed, single in (
            ("impressed_item_ids", target),
            ("clicked_item_ids", f"CASE WHEN {_is_set('is_clicked')} THEN {target} ELSE [] END"),
            (
                "purchased_item_ids",
                f"CASE WHEN {_is_set('is_purchased')} THEN {target} ELSE [] END",
            ),
        )
    )
    source.sql = f"""
        SELECT ts, user_id, session_id, request_id, query, did.item_id, 0 AS position, did.action,
            NULL::DOUBLE AS value, NULL::DOUBLE AS dwell_s, NULL::VARCHAR AS bucket, file, place
        FROM (SELECT {_text("time_index")} AS ts, {_id("user_id")} AS user_id, {_id("session_id")}
        AS session_id,
                {request} AS request_id, {_text("query")} AS query, file, place,
                unnest(list_concat(
                    list_transform({shown}, lambda i: {{item_id: i, action: 'impression'}}),
                    list_transform({clicked}, lambda i: {{item_id: i, action: 'click'}}),
                    list_transform({bought}, lambda i: {{item_id: i, action: 'order'}}))) AS did
              FROM {lines})"""
    return source


def _lines(duck: Duck, path: str, option: str, source: Source) -> str:
    staged = [
        stage_lines(duck, file, source) for file in find_files(path, SUFFIXES, "KuaiSearch", option)
    ]
    return f"read_parquet({files(staged)})"


def _text(key: str) -> str:
    return f"json_extract_string(line, '$.{key}')"


def _id(key: str) -> str:
    return whole_id(_text(key))


def _ids(key: str) -> str:
    """SQL of a list of ids."""
    return (
        f"list_transform(from_json(line -> '$.{key}', '[\"VARCHAR\"]'), lambda i: {whole_id('i')})"
    )


def _is_set(key: str) -> str:
    """SQL of a mark, which may be a number, a whole double or a boolean."""
    return f"{_text(key)} IN ('1', '1.0', 'true')"
