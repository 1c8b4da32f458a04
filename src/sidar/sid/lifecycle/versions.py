"""Two versions of an SID table: which items moved, and why.

A version is whatever holds SIDs by item id: an SID folder, a bundle, a run, a ``sids.parquet`` or a
table of others. Why is read from what the folders remember (:mod:`sidar.sid.lifecycle.ledger`);
plain tables remember nothing, and the diff says so.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.published import read_published
from sidar.sid.table import META, load_sids
from sidar.sid.tokenizer import FILE, stored_codebooks
from sidar.types import Json, PathLike, SemanticIds

#: Cause of a change -> how it is said.
CAUSES = {
    "new": "new in the catalogue",
    "retired": "retired",
    "codebooks": "codebooks changed: equal numbers mean other clusters",
    "category": "its category changed, and with it the first code",
    "text": "its text changed by more than keeping the SID was worth",
    "split": "the last code was dealt anew (post-split, balance)",
    "length": "its length changed (evidence beyond the hysteresis)",
    "other": "same text, other codes: its tokenizer decided",
    "unknown": "no ledger on both sides, so nobody remembers why",
}


@dataclass(frozen=True)
class Version:
    """One table: ``sids`` in the order of ``item_ids``, and what its folder remembers."""

    label: str
    item_ids: list[str]
    sids: SemanticIds
    ledger: Ledger | None = None
    codebooks: str | None = None  # hash
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Diff:
    """What changed from one version to the next.

    ``examples``: cause -> (item, title, SID before, SID after).
    """

    before: str
    after: str
    items: tuple[int, int]
    sids: tuple[int, int]
    same: int
    moved: int
    held: int | None
    causes: dict[str, int]
    first_level: dict[str, int]
    codebooks: str  # same, changed, unknown
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    examples: dict[str, list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]]

    def as_dict(self) -> Json:
        """JSON-able."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def open_version(path: PathLike) -> Version:
    """Open a version; ``ValueError`` names what a path would have to be."""
    path = Path(path)
    folder = next((f for f in (path, path / "sid") if (f / "sids.parquet").is_file()), None)
    if folder is None:
        if not path.is_file():
            raise ValueError(
                f"{path} is no version of an SID table; name an SID folder, a bundle, a run, or a "
                "file with SIDs"
            )
        if path.suffix == ".parquet" and META in (pq.read_schema(path).metadata or {}):
            return _plain(path)
        table = read_published(path)
        return Version(path.name, list(table.item_ids), table.sids())
    version = _plain(folder / "sids.parquet", label=str(path))
    codebooks = hash_codebooks(stored_codebooks(folder)) if (folder / FILE).is_file() else None
    return Version(
        str(path),
        version.item_ids,
        version.sids,
        Ledger.load(folder),
        codebooks,
        _titles(folder.parent),
    )


def compare_versions(before: Version, after: Version, *, examples: int = 3) -> Diff:
    """What changed from ``before`` to ``after``, with up to ``examples`` items per cause (in order
    of item id).
    """
    old = {item: row for row, item in enumerate(before.item_ids) if before.sids.lengths[row]}
    new = {item: row for row, item in enumerate(after.item_ids) if after.sids.lengths[row]}
    known = before.codebooks is not None and after.codebooks is not None
    books = "unknown" if not known else "same" if before.codebooks == after.codebooks else "changed"
    text_of = [_vectors(version.ledger) for version in (before, after)]
    refiled = (
        set()
        if after.ledger is None
        else set(after.ledger.item_ids[after.ledger.cause == "category"])
    )
    causes: Counter[str] = Counter()
    levels: Counter[str] = Counter()
    found: dict[str, list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]] = {}
    same = 0
    for item in sorted(old.keys() | new.keys()):
        a = before.sids.tuple_of(old[item]) if item in old else ()
        b = after.sids.tuple_of(new[item]) if item in new else ()
        if a == b and books != "changed":
            same += 1
            continue
        cause = _cause(item, a, b, books, text_of)
        if cause in ("text", "split", "other") and item in refiled:
            cause = "category"
        causes[cause] += 1
        if a and b:
            levels[_parting(a, b)] += 1
        listed = found.setdefault(cause, [])
        if len(listed) < examples:
            listed.append((item, after.titles.get(item) or before.titles.get(item, ""), a, b))
    return Diff(
        before=before.label,
        after=after.label,
        items=(len(old), len(new)),
        sids=(_distinct(before, old), _distinct(after, new)),
        same=same,
        moved=sum(count for cause, count in causes.items() if cause not in ("new", "retired")),
        held=None if after.ledger is None else int((after.ledger.cause == "held").sum()),
        causes={cause: causes[cause] for cause in CAUSES if causes[cause]},
        first_level=dict(sorted(levels.items())),
        codebooks=books,
        sizes=(tuple(before.sids.codebook_sizes), tuple(after.sids.codebook_sizes)),
        examples={cause: found[cause] for cause in CAUSES if cause in found},
    )


def lines(diff: Diff) -> list[str]:
    """The diff as text."""
    sizes = " → ".join(dict.fromkeys("/".join(map(str, each)) for each in diff.sizes))
    text = [
        f"{diff.before} → {diff.after}",
        f"items {diff.items[0]:,} → {diff.items[1]:,}, SIDs {diff.sids[0]:,} → {diff.sids[1]:,}, "
        f"codebooks {diff.codebooks} ({sizes})",
        f"{diff.same:,} items keep their SID, {diff.moved:,} moved, {diff.causes.get('new', 0):,} "
        f"new, {diff.causes.get('retired', 0):,} retired",
    ]
    if diff.held:
        text.append(
            f"{diff.held:,} changed items kept an SID that is no longer the nearest "
            "(sid.keep_margin)"
        )
    if diff.first_level:
        text.append(
            "moved items part at "
            + ", ".join(f"{level}: {count:,}" for level, count in diff.first_level.items())
        )
    for cause, count in diff.causes.items():
        text.append(f"{count:>8,}  {CAUSES[cause]}")
        for item, title, a, b in diff.examples.get(cause, []):
            text.append(f"          {spell(a)} → {spell(b)}  {item}  {title[:60]}".rstrip())
    return text


def spell(codes: Sequence[int]) -> str:
    """``12-5-7``; ``–`` for none."""
    return "-".join(map(str, codes)) or "–"


def hash_codebooks(codebooks: Sequence[np.ndarray]) -> str:
    """Short hash of the codebooks' shapes and float32 values: two tokenizers with one hash mean the
    same by a code.
    """
    digest = hashlib.sha256()
    for book in codebooks:
        digest.update(repr(book.shape).encode())
        digest.update(np.ascontiguousarray(book, "<f4").tobytes())
    return digest.hexdigest()[:16]


def _plain(path: Path, label: str | None = None) -> Version:
    ids = pq.read_table(path, columns=["item_id"]).column("item_id").to_pylist()
    return Version(label or path.name, ids, load_sids(path, ids))


def _titles(folder: Path) -> dict[str, str]:
    """Titles by item id, where a bundle or a run lies around the SID folder."""
    from sidar.data.catalogue import open_catalogue

    file = next(
        (f for f in (folder / "catalogue", folder / "data") if (f / "catalogue.arrow").is_file()),
        None,
    )
    if file is None:
        return {}
    catalogue = open_catalogue(file / "catalogue.arrow")
    return dict(
        zip(catalogue.item_ids, (title or "" for title in catalogue.column("title")), strict=True)
    )


def _vectors(ledger: Ledger | None) -> dict[str, int]:
    return {} if ledger is None else dict(zip(ledger.item_ids, ledger.vector.tolist(), strict=True))


def _distinct(version: Version, rows: Mapping[str, int]) -> int:
    return len({version.sids.tuple_of(row) for row in rows.values()})


def _cause(
    item: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    books: str,
    text_of: Sequence[Mapping[str, int]],
) -> str:
    if not a or not b:
        return "retired" if a else "new"
    if books == "changed":
        return "codebooks"
    texts = [side.get(item) for side in text_of]
    if None in texts:
        return "unknown"
    if texts[0] != texts[1]:
        return "text"
    if len(a) != len(b):
        short = min(len(a), len(b))
        return "length" if a[:short] == b[:short] else "other"
    return "split" if a[:-1] == b[:-1] else "other"


def _parting(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """Where two SIDs part: the first level that differs, or that one ends before the other."""
    for level, (x, y) in enumerate(zip(a, b, strict=False), start=1):
        if x != y:
            return f"level {level}"
    return "nowhere (equal numbers)" if len(a) == len(b) else f"length {min(len(a), len(b))}"
