"""User Behavior Insights (UBI): the ndjson that OpenSearch, Elasticsearch and Solr write.

Queries and events stand in one file or in several; bulk-index lines (``{"index": …}``) alternate
with them.  A line with ``action_name`` is an event, one with ``user_query`` alone is a query.
Events take their text from the query with the same ``query_id``.  What differs from the contract:
ordinals are 0-based; the item is ``event_attributes.object.object_id``; a user without an account
is its ``client_id``; purchases are ``purchase``; an experiment's bucket and the channels of a shown
item are ``event_attributes.bucket`` and ``event_attributes.channels``.  Where a query has no
impression events, the ids of its answer (``query_response_hit_ids``) are what was shown.  A file
may also be one JSON list, a search response or a dump whose records stand in ``_source``.  Most of
UBI's actions (search, filters, sorting, hovers) are not ours: they are ignored and counted.
"""

from __future__ import annotations

from sidar.config import EventsConfig
from sidar.data.cleaning.clean import whole_id
from sidar.data.duck import Duck, files, text
from sidar.data.readers.json_files import stage_lines
from sidar.data.readers.source import Source, find_files

SUFFIXES = (".ndjson", ".jsonl", ".json", ".ndjson.gz", ".jsonl.gz", ".json.gz")
#: Keys under which a query lists the ids of its answer.
HITS = ("query_response_hit_ids", "query_response_object_ids")


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """All events of the files, mapped to contract columns."""
    source = Source("")
    staged = [
        stage_lines(duck, f, source)
        for f in find_files(config.path, SUFFIXES, "UBI", "events.path")
    ]
    duck.run(f"CREATE OR REPLACE VIEW ubi_lines AS SELECT * FROM read_parquet({files(staged)})")
    duck.run(
        f"""CREATE OR REPLACE TABLE ubi_queries AS
            SELECT {_id("query_id")} AS query_id, min({_text("user_query")}) AS user_query
            FROM ubi_lines WHERE {_text("action_name")} IS NULL
            AND {_text("user_query")} IS NOT NULL GROUP BY 1"""
    )
    later = 1 - (config.first_position or 0)
    whole = f"try_cast({_ORDINAL} AS BIGINT) = try_cast({_ORDINAL} AS DOUBLE)"
    source.sql = f"""
        SELECT {_text("timestamp")} AS ts, {_USER} AS user_id, {_SESSION} AS session_id,
            {_id("query_id")} AS request_id, coalesce({_text("user_query")},
            ubi_queries.user_query) AS query,
            {_id("event_attributes.object.object_id")} AS item_id,
            coalesce((CASE WHEN {whole} THEN try_cast({_ORDINAL}
            AS BIGINT) + {later} END)::VARCHAR, {_ORDINAL})
                AS position,
            {_text("action_name")} AS action, NULL::DOUBLE AS value,
            {_text("event_attributes.dwell_time")} AS dwell_s,
            {_text("event_attributes.bucket")} AS bucket,
            {_text("event_attributes.channels")} AS channels, file, place
        FROM ubi_lines LEFT JOIN ubi_queries ON {_id("query_id")} = ubi_queries.query_id
        WHERE {_text("action_name")} IS NOT NULL
        UNION ALL BY NAME ({_shown(config)})"""
    return source


def _shown(config: EventsConfig) -> str:
    """SQL of the impressions that the answers of queries list, in the order shown.

    A query that has impression events has them already.
    """
    names = [
        "impression",
        *(action for action, meant in config.actions.items() if meant == "impression"),
    ]
    listed = ", ".join(text(action.lower()) for action in names)
    hits = " ".join(
        f"WHEN json_type(line, '$.{key}') = 'ARRAY' THEN line -> '$.{key}'" for key in HITS
    )
    # cheaper than parsing every event
    mentioned = " OR ".join(f"contains(line, '{key}')" for key in HITS)
    return f"""
        SELECT ts, user_id, session_id, request_id, query, item_id, position, 'impression'
        AS action, file, place
        FROM (SELECT {_text("timestamp")} AS ts, {_USER} AS user_id, {_SESSION} AS session_id,
                {_id("query_id")} AS request_id, {_text("user_query")} AS query, file, place,
                unnest(list_transform(from_json(hits, '["VARCHAR"]'), lambda i: {whole_id("i")}))
                AS item_id,
                unnest(range(1, json_array_length(hits)::BIGINT + 1))::VARCHAR AS position
            FROM (SELECT *, CASE {hits} END AS hits FROM ubi_lines WHERE {mentioned})
            WHERE hits IS NOT NULL AND {_text("action_name")} IS NULL)
        WHERE item_id IS NOT NULL AND request_id NOT IN (
            SELECT {_id("query_id")} FROM ubi_lines
            WHERE lower(trim({_text("action_name")})) IN ({listed})
            AND {_id("query_id")} IS NOT NULL)"""


def _text(path: str) -> str:
    """SQL of a value as text, by its path or by the key "a.b" of flattened records."""
    found = f"json_extract_string(line, '$.{path}')"
    return (
        found
        if "." not in path
        else f"coalesce({found}, json_extract_string(line, '$.\"{path}\"'))"
    )


def _id(path: str) -> str:
    """SQL of an id by its path."""
    return whole_id(_text(path))


_USER = f"coalesce(nullif({_id('user_id')}, ''), {_id('client_id')})"
_SESSION = f"coalesce({_text('session_id')}, {_text('event_attributes.session_id')})"
#: The place in the answer: ``position.ordinal``, or ``position`` where that is a number; of an
#: object that holds one number (``{{"$numberInt": "3"}}``) that number.
_PLACE = (
    f"coalesce({_text('event_attributes.position.ordinal')}, {_text('event_attributes.position')})"
)
_ORDINAL = (
    f"CASE WHEN left({_PLACE}, 1) = '{{' THEN regexp_extract({_PLACE}, "
    "'^[^0-9-]*(-?\\d+(?:\\.\\d+)?)[^0-9]*$', 1) "
    f"ELSE {_PLACE} END"
)
