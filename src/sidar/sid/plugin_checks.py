"""What the SID stage checks of a tokenizer that a plug-in brings, so that its faults are named at
once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sidar.extensions import TOKENIZERS
from sidar.sid.tokenizer import Tokenizer
from sidar.types import PathLike, SemanticIds, SidInputs

#: Items that are encoded again by the loaded tokenizer.
_SAMPLE = 256


def check_sids(tokenizer: Tokenizer, sids: SemanticIds, inputs: SidInputs) -> None:
    """Raise ``ValueError`` where a plug-in's SIDs or codebooks do not fit the items; built-in ones
    pass.
    """
    if not TOKENIZERS.is_external(tokenizer.method):
        return
    n, dim = inputs.vectors.shape
    if not isinstance(sids, SemanticIds):
        raise _fault(
            tokenizer, f"encode must return self.full_table(codes), got {type(sids).__name__}"
        )
    if len(sids) != n:
        raise _fault(tokenizer, f"encode returned {len(sids)} SIDs for {n} items")
    if sids.codes.dtype.kind not in "iu":
        raise _fault(tokenizer, f"codes must be whole numbers, got {sids.codes.dtype}")
    want = [(size, dim) for size in sids.codebook_sizes]
    got = [np.shape(book) for book in tokenizer.codebooks_]
    if got != want:
        raise _fault(
            tokenizer,
            f"after fit codebooks_ must have the shapes {want}, got {got}; codes without centroids "
            "take sidar.sid.standin_codebooks(vectors, codes, sizes)",
        )


def check_reload(tokenizer: Tokenizer, folder: PathLike, inputs: SidInputs) -> None:
    """Raise ``ValueError`` where a plug-in's tokenizer, loaded from ``folder``, encodes otherwise
    than fitted.
    """
    if not TOKENIZERS.is_external(tokenizer.method):
        return
    sample = replace(
        inputs,
        vectors=inputs.vectors[:_SAMPLE],
        categories=None if inputs.categories is None else inputs.categories[:_SAMPLE],
        counts=None if inputs.counts is None else inputs.counts[:_SAMPLE],
        item_ids=None if inputs.item_ids is None else inputs.item_ids[:_SAMPLE],
        query_vectors=None,
        query_item_pairs=None,
    )
    before = tokenizer.encode(sample)
    more = (
        "save keeps options and codebooks_ alone; override save and load for what else fit learns"
    )
    try:
        after = type(tokenizer).load(folder, tokenizer.device).encode(sample)
    except Exception as error:  # whatever code of the plug-in raises
        raise _fault(
            tokenizer, f"after save and load it fails ({type(error).__name__}: {error}); {more}"
        ) from error
    if not np.array_equal(before.codes, after.codes):
        raise _fault(tokenizer, f"after save and load it encodes otherwise than before; {more}")


def _fault(tokenizer: Tokenizer, says: str) -> ValueError:
    """Return an error that names the method and the file of a plug-in."""
    return ValueError(
        f"sid.method {tokenizer.method!r} ({TOKENIZERS.file(tokenizer.method)}): {says}"
    )
