"""Rollouts: a group of G SIDs for every prompt, as reinforcement learning asks for them.

All methods read the prompts once and share their keys and values over the rows, as beam search
does. ``logp`` is log π(y | x) of the *model*, the number that the packed forward of training
computes (``lm/packing.py``), whatever the temperature or the constraint that the SID was drawn
under. :func:`sample` describes the methods, docs/methods/rollouts.md says which one is biased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args

import numpy as np
import torch

from sidar.decode import draws, noise
from sidar.decode.beam import Beams, at_once, beam_search
from sidar.decode.free import CELLS
from sidar.decode.protocol import FreeScorer, Scorer, fitted
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex
from sidar.types import Rollouts

Method = Literal["beam", "gumbel", "temperature", "free"]
METHODS: tuple[str, ...] = get_args(Method)


def sample(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    group: int,
    *,
    method: Method = "gumbel",
    temperature: float = 1.0,
    seed: int = 0,
    step: int = 0,
    requests: Sequence[int | str] | None = None,
    allow_fewer: bool = False,
    batch: int | None = None,
) -> Rollouts:
    """Write ``group`` = G SIDs for each of B prompts with the weights that ``scorer`` has now.

    - ``gumbel``: G *different* SIDs of the index, drawn without replacement by stochastic beam
      search (Kool et al. 2019, arXiv 1903.06059, algorithm 1), in the order of the draws.
      ``weight`` is π(y | x) / q(y), q the probability that y is among the G, given the noise of all
      others: Σ_i weight_i · f(y_i), a *sum*, is an unbiased estimate of Σ_y π(y | x) f(y) over the
      SIDs of the index. Without the weights likely SIDs count too little.
    - ``temperature``: G draws *with* replacement from the choices that the index leaves at each
      level, renormalised. Unbiased for that constrained policy; SIDs repeat.
    - ``beam``: what a beam of width G finds, best first, G different SIDs. Deterministic, so the
      mean over it is a biased estimator of any expectation: it never explores. ``seed``, ``step``,
      ``requests`` and ``temperature`` say nothing.
    - ``free``: G draws with replacement from everything that the model can write, for studies of
      hallucination (a :class:`FreeScorer`). SID −1 where the output is none of the index; code −1
      where a token is no code of its level.

    ``temperature`` T > 0 divides the log-probs that are drawn from, level by level; ``logp`` stays
    that of T = 1, and so do the weights' numerators.

    What is drawn depends on (``seed``, ``step``, the request's entry in ``requests``; default: the
    prompt's position) and on the log-probs of the model, not on the other prompts of the batch:
    equal calls repeat bit for bit, and in another batch the noise is the same while log-probs may
    differ by rounding.

    The methods without replacement need G SIDs of probability > 0: ``ValueError`` where the index
    has fewer, or with ``allow_fewer`` padding behind them. ``batch`` prompts are searched together
    (default: so many that a step has :data:`~sidar.decode.beam.ROWS`).
    """
    trie = fitted(scorer, index)
    _check(method, group, temperature)
    names = range(len(prompts)) if requests is None else requests
    if len(names) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(names)} requests that name them")
    if method == "beam":
        rollouts = _of_beams(beam_search(scorer, prompts, trie, group, batch=batch), group)
    else:
        rollouts = _in_batches(
            _drawer(method, scorer, trie, group, temperature),
            prompts,
            noise.stream_keys(seed, step, names, trie.device),
            batch or _batch(method, scorer, trie, group),
            trie.n_levels,
            group,
        )
    if not allow_fewer:
        _check_full(rollouts, method)
    return rollouts


def _check(method: str, group: int, temperature: float) -> None:
    if method not in METHODS:
        raise ValueError(f"no sampling method {method!r}; take one of {', '.join(METHODS)}")
    if group < 1:
        raise ValueError(f"group is {group}; it must be at least 1")
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; it must be above 0 (method 'beam' takes the best)"
        )


def _check_full(rollouts: Rollouts, method: str) -> None:
    """Raise ``ValueError`` for the first prompt whose group is smaller than it should be."""
    size = np.isfinite(rollouts.logp).sum(1)
    small = np.flatnonzero(size < rollouts.logp.shape[1])
    if len(small):
        at, group = int(small[0]), rollouts.logp.shape[1]
        raise ValueError(
            f"prompt {at}: the index leaves {size[at]} different SIDs of probability above 0, and "
            f"method {method!r} needs {group}; make the group smaller, or pass allow_fewer=True "
            "for groups with padding"
        )


_Drawer = Callable[[list[Any], torch.Tensor], Rollouts]


def _drawer(method: str, scorer: Any, trie: Trie, group: int, temperature: float) -> _Drawer:
    """The function of prompts and keys that draws one batch."""
    draw: Any = {"gumbel": draws.without_replacement, "temperature": draws.constrained}.get(
        method, draws.free
    )
    return lambda prompts, keys: draw(scorer, prompts, trie, group, temperature, keys)


def _batch(method: str, scorer: Any, trie: Trie, group: int) -> int:
    """Prompts that are drawn for together, with free log-probs of bounded size."""
    if method != "free":
        return at_once(trie, group)
    free: FreeScorer = scorer
    columns = max(len(free.free_columns(depth)[0]) for depth in range(trie.n_levels))
    return max(1, min(at_once(trie, group), CELLS // (group * columns)))


def _in_batches(
    draw: _Drawer,
    prompts: Sequence[Any],
    keys: torch.Tensor,
    batch: int,
    levels: int,
    group: int,
) -> Rollouts:
    """Draw for prompts of similar length together and put the groups back into their order."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    parts = [
        draw([prompts[i] for i in order[at : at + batch]], keys[order[at : at + batch]])
        for at in range(0, len(order), batch)
    ]
    if not parts:
        return _nothing(levels, group)
    place = np.argsort(np.asarray(order, dtype=np.int64))
    columns: dict[str, Any] = {}
    for field in fields(Rollouts):
        arrays = [getattr(part, field.name) for part in parts]
        columns[field.name] = None if arrays[0] is None else np.concatenate(arrays)[place]
    return Rollouts(**columns)


def _nothing(levels: int, group: int) -> Rollouts:
    """The rollouts of no prompt."""
    return Rollouts(
        sids=np.zeros((0, group), np.int64),
        codes=np.zeros((0, group, levels), np.int32),
        lengths=np.zeros((0, group), np.int32),
        logp=np.zeros((0, group)),
        level_logp=np.zeros((0, group, levels + 1), np.float32),
    )


def _of_beams(beams: Beams, group: int) -> Rollouts:
    """The beams as a group, padded to its size."""
    missing = group - beams.sids.shape[1]

    def padded(values: np.ndarray, fill: float) -> np.ndarray:
        width = [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values, width, constant_values=fill)

    return Rollouts(
        sids=padded(beams.sids, -1),
        codes=padded(beams.codes, -1),
        lengths=padded(beams.lengths, 0),
        logp=padded(beams.scores, -np.inf),
        level_logp=padded(beams.level_logp, 0.0),
    )
