"""``sids.parquet``: the SID table on disk, one row per item that has an SID, any lengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.types import PathLike, SemanticIds

SCHEMA = pa.schema([("item_id", pa.string()), ("codes", pa.list_(pa.int32()))])
#: Key of the Parquet metadata: codebook sizes, method and version, as JSON.
META = b"sidar.sids"


def table_version(sids: SemanticIds) -> str:
    """Short hash of the codes and sizes: two tables with one version give every row
    the same SID.
    """
    digest = hashlib.sha256(json.dumps([list(sids.codebook_sizes), sids.codes.shape]).encode())
    digest.update(sids.codes.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def save_sids(path: PathLike, item_ids: Sequence[str] | np.ndarray, sids: SemanticIds) -> None:
    """Write the table; rows without an SID (length 0) are left out.

    Sizes, method and version go into the metadata.
    """
    if len(item_ids) != len(sids):
        raise ValueError(f"{len(item_ids)} item ids do not fit an SID table of {len(sids)} rows")
    has = sids.lengths > 0
    inside = np.arange(sids.n_levels) < sids.lengths[has][:, None]
    offsets = np.concatenate([[0], np.cumsum(sids.lengths[has])]).astype(np.int32)
    codes = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(sids.codes[has][inside], pa.int32())
    )
    about = {
        "codebook_sizes": list(sids.codebook_sizes),
        "method": sids.method,
        "version": sids.version or table_version(sids),
    }
    ids = pa.array(np.asarray(item_ids, dtype=object)[has], pa.string())
    schema = SCHEMA.with_metadata({META: json.dumps(about).encode()})
    pq.write_table(pa.Table.from_arrays([ids, codes], schema=schema), path)


def load_sids(path: PathLike, item_ids: Sequence[str] | np.ndarray) -> SemanticIds:
    """The table in the row order of ``item_ids``; an item that it lacks has length 0.

    ``ValueError`` for a missing file, a table without sizes, an id listed twice, a code outside its
    codebook, or a table that shares no item with the catalogue.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it with `sidar sid`")
    table = pq.read_table(path)
    raw = (table.schema.metadata or {}).get(META)
    if raw is None or table.column_names != SCHEMA.names:
        raise ValueError(
            f"{path} is not an SID table (columns {table.column_names}); write it with save_sids"
        )
    about = json.loads(raw)
    sizes = tuple(about["codebook_sizes"])
    wanted = pa.array(np.asarray(item_ids, dtype=object), pa.string())
    ids = table.column("item_id").combine_chunks()
    if len(pc.unique(ids)) != len(ids):
        twice = pc.value_counts(ids).to_pylist()
        raise ValueError(
            f"{path}: item_id {max(twice, key=lambda c: c['counts'])['values']!r} is listed twice"
        )
    place = pc.fill_null(pc.index_in(wanted, value_set=ids), -1).to_numpy(zero_copy_only=False)
    if len(ids) and len(wanted) and (place < 0).all():
        raise ValueError(
            f"{path} names none of the catalogue's items (it has {ids[0].as_py()!r}, the catalogue "
            f"{wanted[0].as_py()!r}); it belongs to another catalogue"
        )
    column = table.column("codes").combine_chunks()
    stored = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int32)
    if len(stored) and stored.max() > len(sizes):
        raise ValueError(
            f"{path}: an SID has {stored.max()} codes, the table's metadata names {len(sizes)} "
            "levels"
        )
    padded = np.full((len(ids), len(sizes)), -1, np.int32)
    padded[np.arange(len(sizes)) < stored[:, None]] = column.flatten().to_numpy()
    codes = np.full((len(wanted), len(sizes)), -1, np.int32)
    lengths = np.zeros(len(wanted), np.int32)
    found = place >= 0
    codes[found], lengths[found] = padded[place[found]], stored[place[found]]
    return SemanticIds(codes, lengths, sizes, about["method"], about["version"])
