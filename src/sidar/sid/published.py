"""SID tables as others publish them, read and written: one list or string of tokens per item.

Read from JSON (``{item: SID}`` or a list of ``{"item_id": …, "sid": …}``), JSON lines, CSV and
Parquet, by the file's ending. An SID may be

* a list of tokens, ``["<a_1>", "<b_12>"]`` (LC-Rec's and MiniOneRec's ``index.json``), or of
  numbers, ``[1, 12]``;
* the text of such a list, of a tuple or of a numpy array, as pandas writes them into CSV;
* one text, ``<a_1><b_12>``, ``<|sid_begin|><s_a_1><s_b_12><|sid_end|>`` (OneRec), ``<s1_1><s2_12>``
  (ours), ``1-12``.

Whole floats are numbers, lists of one element stand for it, and NaN or −1 at the end pads shorter
SIDs.

The n-th token is level n whatever it is called, but a level must have one name throughout and no
two levels the same: a token in another place is an error, because nobody can tell what its author
meant. SIDs may differ in length (a token that only parts items of one SID, as TIGER appends it, is
a level like any other). Numbers are kept as they stand.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.cleaning.clean import present
from sidar.data.duck import Duck
from sidar.data.duck import text as quoted
from sidar.data.readers.source import FILE, PLACE, Source
from sidar.data.readers.staging import stage_csv
from sidar.data.readers.typed import Roles, typed_rows
from sidar.sid.spellings import codes_of
from sidar.sid.table import META, save_sids
from sidar.types import Json, PathLike, SemanticIds

FORMS = ("tokens", "text", "codes")
#: What others call the column of item ids.
ITEM_COLUMNS = ("item_id", "item", "id", "product_id", "pid", "iid", "asin", "parent_asin", "sku")
_LEVEL = re.compile(r"(c|code|codes|level|l|sid|sid_level|semantic_id|token)_?(\d+)", re.ASCII)
SID_COLUMNS = ("sid", "codes", "semantic_id", "semantic_ids", "sids", "tokens")


@dataclass(frozen=True)
class Published:
    """A table as its file has it. ``codes`` (n, L) int32, −1 past the end; ``names`` (L,) what the
    levels are called.

    ``names`` are empty where the file has bare numbers. ``codebook_sizes`` are the file's own where
    it tells them, else one more than the largest code of each level.
    """

    item_ids: tuple[str, ...]
    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    names: tuple[str, ...]
    method: str

    def __len__(self) -> int:
        return len(self.item_ids)

    def sids(self) -> SemanticIds:
        """The table in the file's own order."""
        lengths = (self.codes >= 0).sum(axis=1).astype(np.int32)
        return SemanticIds(self.codes, lengths, self.codebook_sizes, method=self.method)


def read_published(
    path: PathLike,
    codebook_sizes: Sequence[int] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Published:
    """Read a table; ``codebook_sizes`` states the codes per level where the largest code seen is
    not the last there is.

    ``columns`` maps ``item_id`` and ``sid`` to the table's own columns; ``sid`` may be several,
    joined by commas, one for each level.

    ``ValueError`` names the file, the item and the token: not parseable, another level's name,
    outside its codebook, an item listed twice, or an item without an SID.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the file that holds the SIDs (sid.table)")
    if unmeant := [column for column in columns or {} if column not in ("item_id", "sid")]:
        raise ValueError(f"sid.table.columns: {unmeant[0]!r} is neither item_id nor sid")
    pairs, about = _pairs(path, columns or {})
    if not pairs:
        raise ValueError(f"{path} lists no items")
    twice = [item for item, count in Counter(item for item, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: item {twice[0]!r} is listed twice")
    parsed = [codes_of(f"{path}: item {item!r}", value) for item, value in pairs]
    names = _level_names(path, pairs, [[name for name, _ in tokens] for tokens in parsed])
    codes = np.full((len(pairs), len(names)), -1, np.int32)
    for row, tokens in enumerate(parsed):
        codes[row, : len(tokens)] = [code for _, code in tokens]
    seen = tuple(int(k) + 1 for k in codes.max(axis=0))
    sizes = tuple(int(k) for k in codebook_sizes or about.get("codebook_sizes", seen))
    if len(sizes) < len(seen):
        item = pairs[int((codes >= 0).sum(axis=1).argmax())][0]
        raise ValueError(
            f"{path}: item {item!r} has {len(seen)} tokens, sid.codebook_sizes names {len(sizes)} "
            "levels"
        )
    if len(sizes) > len(seen):
        codes = np.pad(codes, ((0, 0), (0, len(sizes) - len(seen))), constant_values=-1)
        names = (*names, *("" for _ in range(len(sizes) - len(seen))))
    outside = np.argwhere(codes >= np.asarray(sizes))
    if len(outside):
        row, level = outside[0]
        raise ValueError(
            f"{path}: item {pairs[row][0]!r} has code {codes[row, level]} at level {level + 1}, "
            f"which has {sizes[level]} codes (0 to {sizes[level] - 1})"
        )
    return Published(
        tuple(item for item, _ in pairs), codes, sizes, names, about.get("method", "table")
    )


def write_published(
    path: PathLike,
    item_ids: Sequence[str] | np.ndarray,
    sids: SemanticIds,
    *,
    names: Sequence[str] | None = None,
    form: str = "tokens",
) -> int:
    """Write ``{item: SID}`` as JSON, or ``item_id, sid`` as Parquet, JSON lines or CSV; returns how
    many items.

    ``form``: ``tokens`` (a list), ``text`` (one string) or ``codes`` (numbers). ``names`` are the
    levels', default a, b, c …. Items without an SID are left out. Parquet with ``codes`` is Sidar's
    own ``sids.parquet``.
    """
    path = Path(path)
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    names = list(names) if names else [_letter(level) for level in range(sids.n_levels)]
    good = all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names)
    if len(names) < sids.n_levels or len(set(names)) < len(names) or not good:
        raise ValueError(
            f"level names {names} must be {sids.n_levels} different words, such as a,b,c"
        )
    if path.suffix == ".parquet" and form == "codes":
        save_sids(path, item_ids, sids)
        return int((sids.lengths > 0).sum())
    table: Json = {}
    ids = np.asarray(item_ids, dtype=object)
    for row in np.flatnonzero(sids.lengths > 0):
        codes = sids.tuple_of(int(row))
        tokens = [f"<{names[level]}_{code}>" for level, code in enumerate(codes)]
        table[str(ids[row])] = {"tokens": tokens, "text": "".join(tokens), "codes": list(codes)}[
            form
        ]
    if path.suffix == ".json":
        lines = ",\n".join(
            f"{json.dumps(item, ensure_ascii=False)}: {json.dumps(sid)}"
            for item, sid in table.items()
        )
        path.write_text(f"{{\n{lines}\n}}\n")
    elif path.suffix == ".jsonl":
        rows = (
            json.dumps({"item_id": item, "sid": sid}, ensure_ascii=False)
            for item, sid in table.items()
        )
        path.write_text("".join(f"{row}\n" for row in rows))
    elif path.suffix in (".parquet", ".csv"):
        values = list(table.values())
        if path.suffix == ".csv":  # a cell is one text
            values = [value if form == "text" else "-".join(map(str,
            value)) if form == "codes" else " ".join(value)
                      for value in values]  # fmt: skip
        columns = pa.table({"item_id": pa.array(list(table), pa.string()), "sid": values})
        if path.suffix == ".parquet":
            pq.write_table(columns, path)
        else:
            from pyarrow import csv

            csv.write_csv(columns, path)
    else:
        raise ValueError(f"{path}: want .json, .jsonl, .csv or .parquet")
    return len(table)


def _letter(level: int) -> str:
    return chr(ord("a") + level) if level < 26 else f"level{level + 1}"


def _pairs(path: Path, columns: Mapping[str, str]) -> tuple[list[tuple[str, Any]], Json]:
    """(item, SID as the file has it) in the file's order, and what the file's own metadata say."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "json":
        value = _json(path, _text(path), "the file", object_pairs_hook=_Pairs)
        if isinstance(value, _Pairs):
            items = _items(path, pa.array([item for item, _ in value], pa.string()))
            return list(zip(items, [sid for _, sid in value], strict=True)), {}
        rows = (
            [dict(row) if isinstance(row, _Pairs) else row for row in value]
            if isinstance(value, list)
            else [value]
        )
        return _from_rows(path, rows, columns), {}
    if kind in ("jsonl", "ndjson"):
        # other separators of lines may stand inside a value
        lines = enumerate(_text(path).split("\n"), start=1)
        return _from_rows(
            path, [_json(path, line, f"line {n}") for n, line in lines if line.strip()], columns
        ), {}
    if kind == "parquet":
        table = pq.read_table(path)
        raw = (table.schema.metadata or {}).get(META)
        return _from_columns(path, table, columns), {} if raw is None else json.loads(raw)
    if kind in ("csv", "tsv"):
        return _from_columns(path, _delimited(path), columns), {}
    raise ValueError(f"{path}: an SID table is .json, .jsonl, .csv, .tsv or .parquet")


def _text(path: Path) -> str:
    """The text of a file, unpacked, without a byte order mark."""
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def _delimited(path: Path) -> pa.Table:
    """A CSV or TSV file, staged as a catalogue is, all columns as text."""
    source = Source("")
    with tempfile.TemporaryDirectory(prefix="sidar-sids-") as work, Duck(work) as duck:
        staged = stage_csv(duck, path, source)
        for reject in source.rejects[:1]:
            raise ValueError(
                f"{path}, record {reject.place:,} cannot be read ({reject.reason}): "
                f"{reject.raw.strip()[:120]!r}"
            )
        sql = (
            f"SELECT * EXCLUDE ({FILE}, {PLACE}) FROM read_parquet({quoted(staged)}) ORDER BY "
            f"{PLACE}"
        )
        return duck.table(sql)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a key that comes twice is seen."""


def _json(path: Path, text: str, where: str, **options: Any) -> Any:
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {where} is not valid JSON ({error})") from error


def _from_columns(path: Path, table: pa.Table, columns: Mapping[str, str]) -> list[tuple[str, Any]]:
    names = table.column_names
    own = _item_column(names, columns)
    sids = _sid_columns(names, columns)
    if own is None or not sids:
        raise ValueError(
            f"{path} has columns {', '.join(names)}; want item_id and one of "
            f"{', '.join(SID_COLUMNS)}, or name yours, "
            f"e.g. columns: {{item_id: {names[0] if names else 'asin'}, sid: "
            f"{names[-1] if names else 'code'}}}"
        )
    items = _items(path, table.column(own))
    values = [table.column(name).to_pylist() for name in sids]
    return list(
        zip(
            items,
            values[0] if len(sids) == 1 else map(list, zip(*values, strict=True)),
            strict=True,
        )
    )


def _from_rows(
    path: Path, rows: Iterable[Any], columns: Mapping[str, str]
) -> list[tuple[str, Any]]:
    items, sids = [], []
    for place, row in enumerate(rows, start=1):
        names = list(row) if isinstance(row, dict) else []
        own, columns_of_sid = _item_column(names, columns), _sid_columns(names, columns)
        if own is None or not columns_of_sid:
            raise ValueError(
                f"{path}: entry {place} has no item_id or none of {', '.join(SID_COLUMNS)} "
                f"(it has {', '.join(names)}); name yours, e.g. columns: {{item_id: asin, sid: "
                f"code}}"
            )
        items.append(_id_text(f"{path}: entry {place}", own, row[own]))
        values = [row[name] for name in columns_of_sid]
        sids.append(values[0] if len(values) == 1 else values)
    return list(zip(_items(path, pa.array(items, pa.string())), sids, strict=True))


def _id_text(where: str, column: str, value: Any) -> str | None:
    """Return an id of JSON as text: a list of plain values is joined, as in a catalogue; anything
    deeper is refused.
    """
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, dict | list) for part in parts):
        raise ValueError(
            f"{where}: {column} holds {json.dumps(value)[:80]}, where an id is wanted; name "
            "another column, e.g. columns: {item_id: asin}"
        )
    texts = [
        part if isinstance(part, str) else json.dumps(part) for part in parts if part is not None
    ]
    return ", ".join(texts) if texts else None


def _item_column(names: Sequence[str], columns: Mapping[str, str]) -> str | None:
    """The column of item ids: the mapped one, ``item_id``, or what others call it."""
    if "item_id" in columns:
        return columns["item_id"] if columns["item_id"] in names else None
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[alias] for alias in ITEM_COLUMNS if alias in plain), None)


def _sid_columns(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """The column of SIDs, or one column for each level (``c0, c1, c2``; ``level_1, level_2``)."""
    if "sid" in columns:
        wanted = [name.strip() for name in columns["sid"].split(",")]
        return wanted if all(name in names for name in wanted) else []
    plain = {name.strip().lower(): name for name in reversed(names)}
    if column := next((plain[alias] for alias in SID_COLUMNS if alias in plain), None):
        return [column]
    levels: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _LEVEL.fullmatch(name.strip().lower()):
            levels.setdefault(match[1], {})[int(match[2])] = name
    for numbered in levels.values():
        first = min(numbered)
        if (
            len(numbered) > 1
            and first in (0, 1)
            and sorted(numbered) == list(range(first, first + len(numbered)))
        ):
            return [numbered[level] for level in sorted(numbered)]
    return []


def _items(path: Path, ids: pa.Array | pa.ChunkedArray) -> list[str]:
    """Return the item ids as the catalogue's reader writes them; ``ValueError`` names an entry that
    has none.
    """
    with tempfile.TemporaryDirectory(prefix="sidar-ids-") as work, Duck(work) as duck:
        staged = duck.new_file()
        places = pa.array(np.arange(1, len(ids) + 1))
        files = pa.repeat(pa.scalar(str(path)), len(ids))
        pq.write_table(pa.table({"item_id": ids, FILE: files, PLACE: places}), staged)
        rows, _ = typed_rows(duck, [staged], Roles(["item_id"]))
        table = duck.table(f"SELECT {present('item_id')} AS item_id FROM ({rows}) ORDER BY {PLACE}")
    items: list[str | None] = table.column("item_id").to_pylist()
    if None in items:
        raise ValueError(f"{path}: entry {items.index(None) + 1} has no item id")
    return [str(item) for item in items]


def _level_names(
    path: Path, pairs: Sequence[tuple[str, Any]], found: Sequence[Sequence[str]]
) -> tuple[str, ...]:
    """What each level is called: the commonest name of its place; a token called otherwise is an
    error.
    """
    places = [
        Counter(names[level] for names in found if len(names) > level)
        for level in range(max(map(len, found)))
    ]
    names = tuple(place.most_common(1)[0][0] for place in places)
    for (item, _), own in zip(pairs, found, strict=True):
        for level, (name, usual) in enumerate(zip(own, names, strict=False)):
            if name != usual:
                raise ValueError(
                    f"{path}: item {item!r}: token {level + 1} is of level {name!r}, but in this "
                    f"place others have {usual!r}; the tokens of an SID must follow one order of "
                    "levels"
                )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"{path}: item {pairs[0][0]!r}: two levels are called {twice[0]!r}; name each level "
            "its own"
        )
    return names
