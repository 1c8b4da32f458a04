"""The index stage: SID table and popularity prior → prefix index."""

from __future__ import annotations

from pathlib import Path

from sidar.config import Config
from sidar.index.prefix import PrefixIndex
from sidar.types import Json, PathLike


def build_stage(cfg: Config, sid_folder: PathLike, data_folder: PathLike, out: PathLike) -> Json:
    """Write ``prefix.safetensors`` into ``out``: prefixes of all SIDs, items of each SID, their
    clicks and priors.
    """
    from sidar.data import open_dataset
    from sidar.sid.table import load_sids

    data = open_dataset(Path(data_folder))
    sids = load_sids(Path(sid_folder) / "sids.parquet", data.catalogue.item_ids)
    priors = data.priors()
    index = PrefixIndex.build(sids, priors.prior, priors.clicks)
    index.save(out)
    shapes = {
        "sids": len(index),
        "items": len(index.rows),
        "prefixes": list(index.n_prefixes[1:]),
        "codebook_sizes": list(index.codebook_sizes),
        "fixed_length": index.fixed_length,
        "sid_version": sids.version,
    }
    per_sid = index.nbytes / max(len(index), 1)
    summary = f"{len(index):,} SIDs, {len(index.rows):,} items, {per_sid:.1f} bytes per SID"
    return {"summary": summary, "shapes": shapes}
