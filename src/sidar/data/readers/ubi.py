"""User Behavior Insights (UBI): the ndjson that OpenSearch, Elasticsearch and Solr write.

Queries and events stand in one file or in several; bulk-index lines (``{"index": …}``) alternate with them.  A line
with ``action_name`` is an event, one with ``user_query`` alone is a query.  Events take their text from the query with
the same ``query_id``.  What differs from the contract: ordinals are 0-based; the item is
``event_attributes.object.object_id``; a user without an account is its ``client_id``; purchases are ``purchase``.
Most of UBI's actions (search, filters, sorting, hovers) are not ours: they are ignored and counted.
"""

from __future__ import annotations

from sidar.config import EventsConfig
from sidar.data.duck import Duck, files
from sidar.data.readers.source import Source, find_files
from sidar.data.readers.staging import stage_lines

SUFFIXES = (".ndjson", ".jsonl", ".json", ".ndjson.gz", ".jsonl.gz")


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """All events of the files, mapped to contract columns."""
    source = Source("")
    staged = [stage_lines(duck, f, source) for f in find_files(config.path, SUFFIXES, "UBI", "events.path")]
    duck.run(f"CREATE OR REPLACE VIEW ubi_lines AS SELECT * FROM read_parquet({files(staged)})")
    duck.run(
        f"""CREATE OR REPLACE TABLE ubi_queries AS
            SELECT {_text("query_id")} AS query_id, min({_text("user_query")}) AS user_query
            FROM ubi_lines WHERE {_text("action_name")} IS NULL AND {_text("user_query")} IS NOT NULL GROUP BY 1"""
    )
    ordinal = _text("event_attributes.position.ordinal")
    later = 1 - (config.first_position or 0)
    source.sql = f"""
        SELECT {_text("timestamp")} AS ts, coalesce(nullif({_text("user_id")}, ''), {_text("client_id")}) AS user_id,
            coalesce({_text("session_id")}, {_text("event_attributes.session_id")}) AS session_id,
            {_text("query_id")} AS request_id, coalesce({_text("user_query")}, ubi_queries.user_query) AS query,
            {_text("event_attributes.object.object_id")} AS item_id,
            coalesce((try_cast({ordinal} AS BIGINT) + {later})::VARCHAR, {ordinal}) AS position,
            {_text("action_name")} AS action, NULL::DOUBLE AS value,
            {_text("event_attributes.dwell_time")} AS dwell_s, NULL::VARCHAR AS bucket, file, place
        FROM ubi_lines LEFT JOIN ubi_queries ON {_text("query_id")} = ubi_queries.query_id
        WHERE {_text("action_name")} IS NOT NULL"""
    return source


def _text(path: str) -> str:
    return f"json_extract_string(line, '$.{path}')"
