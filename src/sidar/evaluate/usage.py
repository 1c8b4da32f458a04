"""How a catalogue and its traffic fill the tree of Semantic IDs."""

from __future__ import annotations

import numpy as np

from sidar.evaluate.scorer import Index, Priors
from sidar.types import Json


def sid_usage(index: Index, priors: Priors) -> Json:
    """How items and training clicks spread over the tree: per first code, and used prefixes per
    depth.

    With level heads and one length, 1 − ``density`` is the invalid mass of a uniform model.
    """
    first = index.table[:, 0]
    items = np.bincount(first, weights=np.diff(index.rows_start), minlength=index.codebook_sizes[0])
    of_row = np.repeat(first, np.diff(index.rows_start))
    clicks = np.bincount(
        of_row, weights=priors.clicks[index.rows], minlength=index.codebook_sizes[0]
    )
    sizes = np.diff(index.rows_start)
    return {
        "density": index.density,
        "codebook_sizes": list(index.codebook_sizes),
        "first_level": {"items": items.astype(int).tolist(), "clicks": clicks.astype(int).tolist()},
        "prefixes": [len(codes) for codes in index.codes],
        "codes_used": [len(np.unique(codes)) for codes in index.codes],
        "sids": int(index.n_sids),
        "items_per_sid": {
            "mean": float(sizes.mean()) if len(sizes) else 0.0,
            "max": int(sizes.max(initial=0)),
        },
    }
