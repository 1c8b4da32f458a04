"""JSON files → Parquet: one object a line, the elements of one list, or a search response."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import duckdb
import numpy as np

from sidar.data.duck import Duck, name, text
from sidar.data.readers.dialect import opened
from sidar.data.readers.source import (
    FILE,
    KEPT_REJECTS,
    PLACE,
    Reject,
    Source,
    refuse_case_twins,
)
from sidar.data.readers.staging import MAX_RECORD, Layout, stage_records
from sidar.data.readers.typed import Roles, hive_columns


def stage_jsonl(
    duck: Duck, path: Path, roles: Roles, source: Source, named: Path | None = None
) -> Path:
    """Stage the columns of ``roles`` from JSON objects, whatever the first of them hold; None = the
    keys of all.

    Columns are keys or dotted paths ("object.id").  A list of plain values becomes text joined by
    ", "; lists and objects of nested columns stay JSON text, and a nested column with a ``*`` is
    the object of all keys that match it.  ``named`` is what to call a copy.  Raises ``ValueError``
    for an object where text is wanted.
    """
    lines = stage_lines(duck, path, source, named)
    rows = f"read_parquet({text(lines)}, hive_partitioning = false)"
    every = roles.columns is None
    lower = [key.lower() for key in roles.columns or ()]
    alike = len(set(lower)) < len(lower)  # such as Query, which a mapping names, and query
    sample = rows if every or alike else f"(SELECT line FROM {rows} LIMIT 1000)"
    known = [
        key
        for (key,) in duck.rows(
            f"SELECT DISTINCT unnest(json_keys(line)) AS key FROM {sample} ORDER BY key"
        )
    ]
    keys = known if roles.columns is None else list(dict.fromkeys(roles.columns))
    partitions = {
        key: value for key, value in hive_columns(named or path).items() if key not in known
    }
    keys = [key for key in keys if key not in partitions]
    refuse_case_twins([key for key in keys if key in known], str(named or path))
    if alike:
        there = {key.lower() for key in known}
        keys = [key for key in keys if key in known or key.lower() not in there]
        keys = list({key.lower(): key for key in keys}.values())  # of those that no record has, one
    patterns = roles.patterns
    pointers = {key: _pointers(key) for key in keys if key not in patterns}
    paths = [pointer for listed in pointers.values() for pointer in listed]
    places = {pointer: i for i, pointer in enumerate(paths, start=1)}
    picked = []
    for key, listed in pointers.items():
        value = f"coalesce({', '.join(f'v[{places[pointer]}]' for pointer in listed)})"
        picked.append(f"{_json_text(value, listed, key, roles)} AS {name(key)}")
    picked += [f"{_matching(pattern)} AS {name(pattern)}" for pattern in patterns]
    picked += [f"{text(value)} AS {name(key)}" for key, value in partitions.items()]
    # one parse a line
    extracted = f"json_extract_string(line, [{', '.join(map(text, paths))}])" if paths else "NULL"
    target = duck.new_file()
    try:
        duck.export(
            f"""SELECT {", ".join([*picked, f"file AS {FILE}", f"place AS {PLACE}"])}
                FROM (SELECT {extracted} AS v, line, file, place FROM {rows})""",
            target,
        )
    except duckdb.InvalidInputException as error:
        raise ValueError(
            f"{named or path}: {str(error).removeprefix('Invalid Input Error: ').splitlines()[0]}"
        ) from error
    absent = (
        []
        if every or not known
        else _empty_columns(duck, target, [key for key in keys if key not in known])
    )
    if absent:  # no record has the key: the source lacks the column
        target, full = duck.new_file(), target
        duck.export(
            f"SELECT * EXCLUDE ({', '.join(map(name, absent))}) FROM read_parquet({text(full)})",
            target,
        )
        full.unlink()
    lines.unlink()
    source.columns += [key for key in known if key not in source.columns]
    return target


def _matching(pattern: str) -> str:
    """SQL of the object of those fields of ``line`` whose keys match ``pattern``, as JSON text;
    NULL where none does.
    """
    fields = "map_entries(from_json(line, '\"MAP(VARCHAR, JSON)\"'))"
    some = f"list_filter({fields}, lambda e: e.key GLOB {text(pattern)} AND e.value <> 'null')"
    return f"nullif(to_json(map_from_entries({some}))::VARCHAR, '{{}}')"


def _empty_columns(duck: Duck, path: Path, columns: list[str]) -> list[str]:
    """Return those of ``columns`` that hold no value."""
    if not columns:
        return []
    counts = duck.row(
        f"SELECT {', '.join(f'count({name(c)})' for c in columns)} FROM read_parquet({text(path)})"
    )
    return [column for column, count in zip(columns, counts, strict=True) if not count]


def _json_text(value: str, pointers: list[str], key: str, roles: Roles) -> str:
    """Return SQL of a column's text; ``value`` is the JSON value as text, where a list or an object
    stays JSON.
    """
    if key in roles.nested:
        return value
    found = ", ".join(
        f"nullif(json_extract(line, {text(pointer)}), 'null'::JSON)" for pointer in pointers
    )
    whole = f"coalesce({found})"  # evaluated only for the few values that look nested
    if key in roles.measures and roles.decimal == ",":
        written = (
            f"contains({value}, '.') AND json_type({whole}) = 'DOUBLE' AND NOT "
            f"contains(lower({value}), 'e')"
        )
        return f"CASE WHEN {written} THEN {value} || 'e0' ELSE {value} END"
    elements = f"from_json({whole}, '[\"JSON\"]')"
    deep = f"len(list_filter({elements}, lambda e: left(e::VARCHAR, 1) IN ('{{', '['))) > 0"
    refused = (
        f"error({text(f'column {key}: record ')} || place || ' holds ' || left({value}, 80) || "
        f"{text(f', where text is wanted; name one of its fields ({key}.<field>)')})"
    )
    joined = f"array_to_string(list_transform({elements}, lambda e: e ->> '$'), ', ')"
    power = ""
    if roles.is_label(key):
        power = f"""WHEN contains({value}, 'e') AND regexp_full_match({value},
            '-?\\d(\\.\\d+)?e\\d+') THEN
            CASE json_type({whole}) WHEN 'DOUBLE' THEN error({text(f"column {key}: record ")}
            || place
                || ' holds the number ' || {value}
                || ', an id or label that a double shortened, so its last digits '
                || 'are lost; write it as text') ELSE {value} END"""
    return f"""CASE {power} WHEN coalesce(left({value}, 1), '') NOT IN ('[', '{{') THEN {value}
        WHEN json_type({whole}) = 'OBJECT' THEN {refused}
        WHEN json_type({whole}) = 'ARRAY' THEN CASE WHEN {deep} THEN {refused} ELSE {joined} END
        ELSE {value} END"""


def stage_lines(duck: Duck, path: Path, source: Source, named: Path | None = None) -> Path:
    """Stage the JSON objects of a file: ``line, file, place``, one object a line or the elements of
    one JSON list.

    Blank lines are skipped.  What a search engine wrapped in ``_source`` is unwrapped; its ``_id``
    stays.  ``named`` is the file to name in the quarantine when ``path`` is a temporary copy.
    """
    file = str(named or path)
    if _is_whole_json(path):
        raw = _stage_objects(duck, path, file)
    else:
        raw = stage_records(
            duck,
            path,
            Layout(("line",), "\x01"),
            "ltrim(line, chr(65279)) AS line",
            source,
            named=named,
        )
    fault = (
        "CASE WHEN NOT json_valid(line) THEN 'not JSON' WHEN json_type(line) <> 'OBJECT' THEN "
        "'not a JSON object' END"
    )
    rows = f"read_parquet({text(raw)}, hive_partitioning = false)"
    bad = f"FROM {rows} WHERE line IS NOT NULL AND {fault} IS NOT NULL"
    for reason, count in duck.rows(f"SELECT {fault}, count(*) {bad} GROUP BY 1"):
        source.refuse(file, reason, count)
    before = np.concatenate(
        [after for shifted, after in source.shifts if shifted == file] or [np.array([], np.int64)]
    )
    for place, reason, line in duck.rows(
        f"SELECT place, {fault}, line {bad} ORDER BY place LIMIT {KEPT_REJECTS}"
    ):
        source.rejects.append(
            Reject(file, place + int(np.searchsorted(before, place)), reason, line)
        )
    target = duck.new_file()
    wrapped = "contains(line, '\"_source\"') AND json_type(line, '$._source') = 'OBJECT'"
    inner = "json_merge_patch(json_object('_id', line -> '$._id'), line -> '$._source')::VARCHAR"
    duck.export(
        f"""SELECT * REPLACE (CASE WHEN {wrapped} THEN {inner} ELSE line END AS line)
            FROM {rows} WHERE line IS NOT NULL AND {fault} IS NULL""",
        target,
    )
    raw.unlink()
    return target


def _is_whole_json(path: Path) -> bool:
    """Return whether a file is one JSON list or objects over several lines, and not one object a
    line.
    """
    with opened(path) as f:
        try:
            head = f.read(MAX_RECORD).removeprefix(b"\xef\xbb\xbf").lstrip()
        except (EOFError, OSError, zlib.error):
            return False  # refused where the file is read whole
    first, _, rest = head.partition(b"\n")
    try:
        value = json.loads(first)
    # a line that is no JSON: the start of a longer value, or a broken record among others
    except ValueError:
        return first[:1] == b"[" or (first[:1] == b"{" and first.strip()[-1:] in (b"{", b",", b"["))
    response = (
        isinstance(value, dict) and isinstance(value.get("hits"), dict) and "hits" in value["hits"]
    )
    return (isinstance(value, list) or response) and not rest.strip()


def _stage_objects(duck: Duck, path: Path, file: str) -> Path:
    """Stage the elements of one JSON list, the hits of one search response, or objects over several
    lines.
    """
    target = duck.new_file()
    with duck.in_order():
        for layout in ("array", "unstructured"):
            objects = (
                f"read_json_objects({text(path)}, format = '{layout}', maximum_object_size "
                f"= {16 * MAX_RECORD})"
            )
            try:
                duck.export(
                    (
                        f"SELECT json::VARCHAR AS line, {text(file)} AS file, row_number() OVER () "
                        f"AS place FROM {objects}"
                    ),
                    target,
                )
                break
            except (duckdb.InvalidInputException, duckdb.IOException) as error:
                if layout == "unstructured":
                    raise ValueError(
                        f"{file} is no readable JSON: {str(error).splitlines()[0]}"
                    ) from error
        hits = "json_extract(line, '$.hits.hits')"
        if duck.row(
            f"SELECT count(*) = 1 AND bool_and(json_type({hits}) = 'ARRAY') FROM "
            f"read_parquet({text(target)})"
        )[0]:
            target, response = duck.new_file(), target
            duck.export(
                f"""SELECT hit::VARCHAR AS line, file, row_number() OVER () AS place
                    FROM (SELECT file, unnest(from_json({hits}, '["JSON"]')) AS hit
                          FROM read_parquet({text(response)}))""",
                target,
            )
            response.unlink()
    return target


def read_json(path: Path) -> object:
    """A whole JSON file; an error names the file, line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not UTF-8 JSON: {error}") from error


def _pointers(key: str) -> list[str]:
    """Return the JSON paths of a column: the plain key, then its dotted parts, then those inside of
    ``_source``.
    """
    dotted = [part for part in key.split(".") if part] or [key]
    listed = [[key], dotted]
    if dotted[0] == "_source" and len(dotted) > 1:  # unwrapped by stage_lines
        listed.append(dotted[1:])
    paths = [
        "$" + "".join("." + json.dumps(part, ensure_ascii=False) for part in parts)
        for parts in listed
    ]
    return list(dict.fromkeys(paths))
