"""The catalogue's rows: founding a lineage, extending it, and keeping it on disk.

A *lineage* is one numbering of items by row.  It is founded by the first catalogue and named by the
hash of that catalogue's ids in order; later catalogues of the same shop only append rows and put
tombstones, so an artefact made for the lineage never silently changes meaning.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sidar.types import CATALOGUE_SCHEMA, Catalogue, PathLike

_LINEAGE, _FOUNDED = b"sidar.lineage", b"sidar.founding_rows"


def lineage_hash(item_ids: pa.ChunkedArray) -> str:
    """Name of the lineage that these ids, in this order, found: 16 hex digits of a sha256.

    Ids are hashed length-prefixed, so no two different lists are written alike.
    """
    digest = hashlib.sha256(b"sidar catalogue lineage 1\n")
    for item_id in item_ids.to_pylist():
        raw = item_id.encode()
        digest.update(len(raw).to_bytes(4, "little") + raw)
    return digest.hexdigest()[:16]


def found(table: pa.Table) -> Catalogue:
    """Start a lineage: row i is the i-th row of ``table`` (:data:`~sidar.types.CATALOGUE_SCHEMA`,
    unique ids).
    """
    lineage = lineage_hash(table.column("item_id"))
    return _named(table, lineage, table.num_rows)


def extend(previous: Catalogue, table: pa.Table) -> Catalogue:
    """The next catalogue of the same lineage: ``previous``'s rows keep their numbers, new items are
    appended.

    An item that ``table`` lacks becomes a tombstone (``alive`` False, its last known fields kept);
    one that returns is alive again; one that stays takes its fields from ``table``.
    """
    ids = table.column("item_id").combine_chunks()
    # (N_old,) row in table
    place = pc.index_in(previous.table.column("item_id"), value_set=ids).combine_chunks()
    kept = pc.is_valid(place)
    fresh = table.filter(
        pc.invert(pc.is_in(ids, value_set=previous.table.column("item_id").combine_chunks()))
    )
    columns = []
    for name in CATALOGUE_SCHEMA.names:
        old = previous.table.column(name).combine_chunks()
        if name == "alive":
            columns.append(kept)
            continue
        # one gather over [old | new]: if_else has no kernel for the nested category
        both = pa.concat_arrays([old, table.column(name).combine_chunks()])
        own = pa.array(range(len(old)), pa.int64())
        columns.append(
            both.take(
                pc.if_else(kept, pc.add(pc.cast(pc.fill_null(place, 0), pa.int64()), len(old)), own)
            )
        )
    merged = pa.Table.from_arrays(columns, schema=CATALOGUE_SCHEMA)
    return _named(
        pa.concat_tables([merged, fresh.cast(CATALOGUE_SCHEMA)]),
        previous.lineage,
        _founding_rows(previous),
    )


def save_catalogue(catalogue: Catalogue, path: PathLike) -> None:
    """Write one Arrow IPC file that carries its lineage in the schema's metadata."""
    table = catalogue.table.combine_chunks()
    for name in ("price", "in_stock", "created"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), _settled(table.column(index)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 16)


def open_catalogue(path: PathLike) -> Catalogue:
    """Memory-map a file of :func:`save_catalogue`; refuses a file whose ids do not carry its
    lineage's name.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; make it with `sidar validate`")
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    meta = table.schema.metadata or {}
    if _LINEAGE not in meta:
        raise ValueError(f"{path} carries no lineage; rebuild it with `sidar validate`")
    catalogue = Catalogue(table, meta[_LINEAGE].decode())
    founders = table.column("item_id").slice(0, int(meta[_FOUNDED]))
    if lineage_hash(founders) != catalogue.lineage:
        raise ValueError(
            f"{path}: its first {len(founders)} ids do not found lineage {catalogue.lineage}; "
            "rebuild it"
        )
    return catalogue


def _named(table: pa.Table, lineage: str, founding_rows: int) -> Catalogue:
    meta = {_LINEAGE: lineage.encode(), _FOUNDED: str(founding_rows).encode()}
    return Catalogue(table.replace_schema_metadata(meta), lineage)


def _settled(column: pa.ChunkedArray) -> pa.Array:
    """The same fixed-width values with zeros under the nulls, where engines leave whatever memory
    held.

    The file's hash would otherwise change from build to build and make everything after it look
    stale.
    """
    kind = column.type
    plain = column.cast(pa.int64()) if pa.types.is_timestamp(kind) else column
    values = plain.fill_null(False if pa.types.is_boolean(kind) else 0).to_numpy()
    nulls = column.is_null().to_numpy()
    return pa.array(values, mask=nulls).cast(kind)


def _founding_rows(catalogue: Catalogue) -> int:
    return int((catalogue.table.schema.metadata or {}).get(_FOUNDED, len(catalogue)))
