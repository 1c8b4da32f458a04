"""What the golden tests call of Sidar. A refactoring may edit this file where a name moves, and
nothing else here.

The public entry points are the command line (``sidar.cli``), ``load_config``, ``Retriever`` and
``create_app``.  The functions below them reach inside, and return plain arrays and numbers, so that
no test knows where a part lives. ``NEW_KEYS`` and ``NEW_COMMANDS`` list what was added on purpose
since the recording.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidar import Retriever
from sidar.cli import app, main
from sidar.config import load_config
from sidar.serve import create_app

__all__ = ["Retriever", "app", "create_app", "load_config", "main"]

#: Paths of YAML keys that did not exist when the keys were recorded, e.g. ``plugins``.
NEW_KEYS: frozenset[str] = frozenset()
#: Commands, and options as ``command --option``, that did not exist when the command line was
#: recorded.
NEW_COMMANDS: frozenset[str] = frozenset({"sidar ab", "sidar bench-serve", "sidar copy-store"})


def verify_bundle(folder: Path) -> None:
    """Raise ``ValueError`` where parts of a bundle do not fit, or a file has changed."""
    from sidar.serve.bundle import open_bundle

    open_bundle(folder, verify=True)


def read_sid_table(path: Path, item_ids: list[str]) -> dict[str, Any]:
    """Return codes (N, L), lengths, codebook sizes, method and version of a ``sids.parquet``."""
    from sidar.sid import load_sids

    sids = load_sids(path, item_ids)
    return {
        "codes": sids.codes,
        "lengths": sids.lengths,
        "codebook_sizes": list(sids.codebook_sizes),
        "method": sids.method,
        "version": sids.version,
    }


def encode_items(
    folder: Path, vectors: np.ndarray, categories: list[list[str]], item_ids: list[str]
) -> np.ndarray:
    """Return the codes (N, L), padded with −1, that a kept tokenizer gives a catalogue."""
    from sidar.sid import load_tokenizer
    from sidar.types import SidInputs

    counts = np.arange(len(vectors), dtype=float)
    inputs = SidInputs(vectors, categories=categories, counts=counts, item_ids=item_ids)
    return load_tokenizer(folder).encode(inputs).codes


def load_checkpoint(model: Path, bundle: Path) -> Retriever:
    """Return an SFT stage's language model with the catalogue, SIDs and index of ``bundle``."""
    from sidar.lm import SidLM
    from sidar.serve.bundle import open_bundle

    opened = open_bundle(bundle)
    lm = SidLM.from_pretrained(model)
    return Retriever(lm, opened.index, opened.sids, opened.catalogue, beam=16, precision="fp32")


def free_decode(
    retriever: Retriever, requests: list[dict[str, Any]], beam: int
) -> dict[str, np.ndarray]:
    """Return what decoding without the index writes, and the probability of no product."""
    from sidar.decode import free_beam_search, invalid_mass
    from sidar.lm.scorer import LmScorer

    scorer, tokens = LmScorer(retriever.model), _tokens(retriever, requests)
    beams = free_beam_search(scorer, tokens, retriever.trie, beam)
    return {
        "codes": beams.codes,
        "lengths": beams.lengths,
        "kind": beams.kind,
        "scores": beams.scores,
        "invalid_mass": invalid_mass(scorer, tokens, retriever.trie),
    }


def prompt_tokens(retriever: Retriever, requests: list[dict[str, Any]]) -> list[list[int]]:
    """Return the token ids of the prompt of every request, SIDs as text vocabulary + token."""
    return [list(map(int, tokens)) for tokens in _tokens(retriever, requests)]


def _tokens(retriever: Retriever, requests: list[dict[str, Any]]) -> list[Any]:
    from sidar.types import Prompt

    prompts = [
        Prompt(request["query"], tuple(request.get("history", ())), request.get("profile", ""))
        for request in requests
    ]
    return retriever.model.prompts.encode_batch(prompts, retriever.sids)


def candidate_scores(
    retriever: Retriever, lists: list[dict[str, Any]], rdrw_state: str | None = "eos_out"
) -> Any:
    """Return the ``CandidateScores`` of preference lists, which are given by catalogue rows."""
    from sidar.lm.candidates import to_candidates
    from sidar.lm.packing import pack, score

    candidates = [
        to_candidates(
            one["positives"],
            one["tiers"],
            one["negatives"],
            retriever.sids,
            positive_weights=one.get("weights"),
        ).listed
        for one in lists
    ]
    retriever.model.eval()
    packed = pack(_tokens(retriever, lists), candidates, retriever.model.vocab)
    return score(retriever.model, packed, rdrw_state=rdrw_state)


def scores_as_arrays(scores: Any) -> dict[str, np.ndarray]:
    """Return the fields of ``CandidateScores`` that are filled, as arrays."""
    return {
        name: value.detach().numpy() for name, value in vars(scores).items() if value is not None
    }


def scores_of_arrays(arrays: dict[str, np.ndarray]) -> Any:
    """Return ``CandidateScores`` of arrays; gradients flow to ``logp``."""
    from sidar.types import CandidateScores

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    tensors["logp"].requires_grad_()
    return CandidateScores(**tensors)


def objective_names() -> list[str]:
    """Return the names of the objectives of logged lists."""
    from sidar.align.registry import names, objective

    return [name for name in names() if not objective(name).needs_rollouts]


def objective_loss(
    name: str, scores: Any, options: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a batch under an objective, and what it logs.

    RDRW weighs by the quartiles of 16 similarities, so that no batch falls into its warm-up.
    """
    from sidar.align import SimilarityWindow, objective
    from sidar.config import AlignConfig, SftConfig

    window = SimilarityWindow(16)
    window.add(torch.linspace(-0.8, 1.0, 16))
    torch.manual_seed(0)  # for rdrw_weights: shuffled
    cfg = AlignConfig(objective=name, **options).resolved(SftConfig())
    loss, logs = objective(name).loss(scores, cfg, window)
    return loss, {key: float(value.detach()) for key, value in logs.items()}


def gradient_norms(retriever: Retriever, loss: torch.Tensor) -> dict[str, float]:
    """Return the gradient's norm over all weights, and over the word embeddings."""
    model = retriever.model
    model.zero_grad()
    loss.backward()
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    words = model.word_embeddings.grad
    norms = {
        "all": float(sum(squares).sqrt()),
        "words": 0.0 if words is None else float(words.double().norm()),
    }
    model.zero_grad()
    return norms
