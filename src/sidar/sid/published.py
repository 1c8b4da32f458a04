"""SID tables as others publish them, read and written: one list or string of tokens per item.

Read from JSON (``{item: SID}`` or a list of ``{"item_id": …, "sid": …}``), JSON lines, CSV and Parquet, by the file's
ending. An SID may be

* a list of tokens, ``["<a_1>", "<b_12>"]`` (LC-Rec's and MiniOneRec's ``index.json``), or of numbers, ``[1, 12]``;
* one text, ``<a_1><b_12>``, ``<|sid_begin|><s_a_1><s_b_12><|sid_end|>`` (OneRec), ``<s1_1><s2_12>`` (ours), ``1-12``.

The n-th token is level n whatever it is called, but a level must have one name throughout and no two levels the same:
a token in another place is an error, because nobody can tell what its author meant. SIDs may differ in length (a token
that only parts items of one SID, as TIGER appends it, is a level like any other). Numbers are kept as they stand.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.sid.table import META, save_sids
from sidar.types import PathLike, SemanticIds

FORMS = ("tokens", "text", "codes")
SID_COLUMNS = ("sid", "codes", "semantic_id", "semantic_ids", "sids", "tokens")
_TOKEN = re.compile(r"<?([A-Za-z]\w*?)_(\d+)>?", re.ASCII)
_BRACKETED = re.compile(r"<[^<>]*>")
_CONTROL = re.compile(r"<\|[^<>]*\|>|<s_end>|</s>|<eos>|<pad>")  # marks around an SID, no codes
_LARGEST = 1 << 24  # a code beyond this is a hash or an item number, not a code


@dataclass(frozen=True)
class Published:
    """A table as its file has it. ``codes`` (n, L) int32, −1 past the end; ``names`` (L,) what the levels are called.

    ``names`` are empty where the file has bare numbers. ``codebook_sizes`` are the file's own where it tells them,
    else one more than the largest code of each level.
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


def read_published(path: PathLike, codebook_sizes: Sequence[int] | None = None) -> Published:
    """Read a table; ``codebook_sizes`` states the codes per level where the largest code seen is not the last there is.

    ``ValueError`` names the file, the item and the token: not parseable, another level's name, outside its codebook,
    an item listed twice, or an item without an SID.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the file that holds the SIDs (sid.table)")
    pairs, about = _pairs(path)
    if not pairs:
        raise ValueError(f"{path} lists no items")
    twice = [item for item, count in Counter(item for item, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: item {twice[0]!r} is listed twice")
    parsed = [_codes(path, item, value) for item, value in pairs]
    names = _level_names(path, pairs, [[name for name, _ in tokens] for tokens in parsed])
    codes = np.full((len(pairs), len(names)), -1, np.int32)
    for row, tokens in enumerate(parsed):
        codes[row, : len(tokens)] = [code for _, code in tokens]
    seen = tuple(int(k) + 1 for k in codes.max(axis=0))
    sizes = tuple(int(k) for k in codebook_sizes or about.get("codebook_sizes", seen))
    if len(sizes) < len(seen):
        item = pairs[int((codes >= 0).sum(axis=1).argmax())][0]
        raise ValueError(f"{path}: item {item!r} has {len(seen)} tokens, sid.codebook_sizes names {len(sizes)} levels")
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
    return Published(tuple(item for item, _ in pairs), codes, sizes, names, about.get("method", "table"))


def write_published(
    path: PathLike,
    item_ids: Sequence[str] | np.ndarray,
    sids: SemanticIds,
    *,
    names: Sequence[str] | None = None,
    form: str = "tokens",
) -> int:
    """Write ``{item: SID}`` as JSON, or ``item_id, sid`` as Parquet, JSON lines or CSV; returns how many items.

    ``form``: ``tokens`` (a list), ``text`` (one string) or ``codes`` (numbers). ``names`` are the levels', default a,
    b, c …. Items without an SID are left out. Parquet with ``codes`` is Sidar's own ``sids.parquet``.
    """
    path = Path(path)
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    names = list(names) if names else [_letter(level) for level in range(sids.n_levels)]
    good = all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names)
    if len(names) < sids.n_levels or len(set(names)) < len(names) or not good:
        raise ValueError(f"level names {names} must be {sids.n_levels} different words, such as a,b,c")
    if path.suffix == ".parquet" and form == "codes":
        save_sids(path, item_ids, sids)
        return int((sids.lengths > 0).sum())
    table: dict[str, Any] = {}
    ids = np.asarray(item_ids, dtype=object)
    for row in np.flatnonzero(sids.lengths > 0):
        codes = sids.tuple_of(int(row))
        tokens = [f"<{names[level]}_{code}>" for level, code in enumerate(codes)]
        table[str(ids[row])] = {"tokens": tokens, "text": "".join(tokens), "codes": list(codes)}[form]
    if path.suffix == ".json":
        lines = ",\n".join(f"{json.dumps(item, ensure_ascii=False)}: {json.dumps(sid)}" for item, sid in table.items())
        path.write_text(f"{{\n{lines}\n}}\n")
    elif path.suffix == ".jsonl":
        rows = (json.dumps({"item_id": item, "sid": sid}, ensure_ascii=False) for item, sid in table.items())
        path.write_text("".join(f"{row}\n" for row in rows))
    elif path.suffix in (".parquet", ".csv"):
        values = list(table.values())
        if path.suffix == ".csv":  # a cell is one text
            values = [value if form == "text" else "-".join(map(str, value)) if form == "codes" else " ".join(value)
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


def _pairs(path: Path) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """(item, SID as the file has it) in the file's order, and what the file's own metadata say."""
    if path.suffix == ".json":
        value = _json(path, path.read_text(), "the file", object_pairs_hook=_Pairs)
        if isinstance(value, _Pairs):
            return [(str(item), sid) for item, sid in value], {}
        rows = [dict(row) if isinstance(row, _Pairs) else row for row in value] if isinstance(value, list) else [value]
        return _from_rows(path, rows), {}
    if path.suffix == ".jsonl":
        lines = enumerate(path.read_text().splitlines(), start=1)
        return _from_rows(path, [_json(path, line, f"line {n}") for n, line in lines if line.strip()]), {}
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        raw = (table.schema.metadata or {}).get(META)
        return _from_columns(path, table), {} if raw is None else json.loads(raw)
    if path.suffix in (".csv", ".tsv"):
        from pyarrow import csv

        options = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        convert = csv.ConvertOptions(column_types={name: pa.string() for name in ("item_id", *SID_COLUMNS)})
        return _from_columns(path, csv.read_csv(path, parse_options=options, convert_options=convert)), {}
    raise ValueError(f"{path}: an SID table is .json, .jsonl, .csv, .tsv or .parquet")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a key that comes twice is seen."""


def _json(path: Path, text: str, where: str, **options: Any) -> Any:
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {where} is not valid JSON ({error})") from error


def _from_columns(path: Path, table: pa.Table) -> list[tuple[str, Any]]:
    column = next((name for name in SID_COLUMNS if name in table.column_names), None)
    if "item_id" not in table.column_names or column is None:
        raise ValueError(
            f"{path} has columns {', '.join(table.column_names)}; want item_id and one of {', '.join(SID_COLUMNS)}"
        )
    items = table.column("item_id").cast(pa.string()).to_pylist()
    return list(zip(items, table.column(column).to_pylist(), strict=True))


def _from_rows(path: Path, rows: Iterable[Any]) -> list[tuple[str, Any]]:
    found = []
    for place, row in enumerate(rows, start=1):
        column = next((name for name in SID_COLUMNS if isinstance(row, dict) and name in row), None)
        if column is None or "item_id" not in row:
            raise ValueError(f"{path}: entry {place} has no item_id or none of {', '.join(SID_COLUMNS)}")
        found.append((str(row["item_id"]), row[column]))
    return found


def _codes(path: Path, item: str, value: Any) -> list[tuple[str, int]]:
    """(level name, code) of each token of one SID."""
    tokens = value
    if isinstance(value, str):
        text = value.strip()
        tokens = _BRACKETED.findall(text) if "<" in text else [t for t in re.split(r"[\s,/-]+", text) if t]
        left = re.sub(r"[\s,]+", "", _BRACKETED.sub("", text)) if "<" in text else ""
        if left:
            raise ValueError(f"{path}: item {item!r}: {left!r} in {value!r} is no token; want tokens such as <a_12>")
    if not isinstance(tokens, list):
        raise ValueError(f"{path}: item {item!r} has the SID {value!r}; want a list of tokens or one text")
    found = []
    padding = False
    for token in tokens:
        if isinstance(token, int) and not isinstance(token, bool) and token >= -1:
            name, code = "", token
        elif isinstance(token, str) and _CONTROL.fullmatch(token.strip()):
            continue
        elif isinstance(token, str) and token.strip().isascii() and token.strip().isdigit():
            name, code = "", int(token)
        elif isinstance(token, str) and (match := _TOKEN.fullmatch(token.strip())):
            name, code = match[1], int(match[2])
        else:
            raise ValueError(f"{path}: item {item!r}: token {token!r} is not parseable; want such as <a_12> or 12")
        if code < 0:  # −1 pads SIDs of other lengths in a rectangular table
            padding = True
            continue
        if padding:
            raise ValueError(f"{path}: item {item!r}: token {token!r} follows the padding −1 in {value!r}")
        if code >= _LARGEST:
            raise ValueError(
                f"{path}: item {item!r}: token {token!r} is no code: the largest allowed is {_LARGEST - 1}"
            )
        found.append((name, code))
    if not found:
        raise ValueError(f"{path}: item {item!r} has no SID ({value!r}); leave it out of the table")
    return found


def _level_names(path: Path, pairs: Sequence[tuple[str, Any]], found: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What each level is called: the commonest name of its place; a token called otherwise is an error."""
    places = [Counter(names[level] for names in found if len(names) > level) for level in range(max(map(len, found)))]
    names = tuple(place.most_common(1)[0][0] for place in places)
    for (item, _), own in zip(pairs, found, strict=True):
        for level, (name, usual) in enumerate(zip(own, names, strict=False)):
            if name != usual:
                raise ValueError(
                    f"{path}: item {item!r}: token {level + 1} is of level {name!r}, but in this place others have "
                    f"{usual!r}; the tokens of an SID must follow one order of levels"
                )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(f"{path}: item {pairs[0][0]!r}: two levels are called {twice[0]!r}; name each level its own")
    return names
