"""Do RAD-DPO's parts do what they are said to do?  Measured on one model, on lists whose truth is
known.

Lists first (:func:`labelled_lists`, once per bed), then :func:`probe` after each training run;
:func:`oscillation` reads a training log.
See docs/methods/raddpo.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.raddpo import auc
from experiments.raddpo.gradients import gradient_figures, push_figures, taken, window_at
from experiments.raddpo.labels import LabelledList, labelled_lists
from experiments.raddpo.tables import (
    STATES,
    Measured,
    Truth,
    embedding_similarity,
    eq6,
    measure,
    quartiles,
)
from sidar.config import AlignConfig
from sidar.lm.model import SidLM

__all__ = ["LabelledList", "labelled_lists", "measure", "oscillation", "probe"]


def probe(
    model: SidLM,
    lists: Sequence[LabelledList],
    cfg: AlignConfig,
    *,
    reference: SidLM | None = None,
    before: Measured | None = None,
    said: Measured | None = None,
    vectors: np.ndarray | None = None,
    max_negatives: int = 3,
    samples: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """All mechanism figures of ``model``, aligned under ``cfg`` (or the SFT model); NaN where one
    is undefined.

    ``reference``: the SFT model.  ``before``, ``said``: what :func:`measure` gave for it and for
    ``model`` on these lists, where that is known already; each saves a forward over all of them.
    Without ``reference`` and ``before`` there are no ``_change`` figures, without ``reference`` no
    ``gradient/ratio`` of DPO and its kin.  ``vectors`` (N, D): item embeddings, for
    ``auc/embedding``.  ``max_negatives``: what training takes of a list, for ``contrast/*``,
    ``gradient/*`` and ``prefix/*``; all else uses every negative.  Pairs are (y_w*, negative).
    ``…_low`` and ``…_high`` end 95 % intervals of ``samples`` bootstrap resamples of queries.

    ``rdrw/<state>/…`` for ``score``'s three ``rdrw_state``s: ``eos_out`` the state that outputs
    EOS, ``last_code`` the one that outputs the last code, ``item_vector`` the sum of the codes'
    centroids, which no training moves.
      ``auc``, ``auc_within`` (with ``_low``, ``_high``): P(a pseudo-negative is more similar to
      y_w* than a true negative), ties half: among the pairs of all lists, and inside lists only; .5
      = RDRW knows nothing. ``q25 q50 q75 spread``: quartiles of the similarity, and q75 − q25.
      ``prefix_correlation``: Pearson's, of the similarity with the length of the shared prefix.
      ``weight_pseudo``, ``weight_true``: mean w of eq. 6 at these quartiles (the first must be
      smaller).
    ``auc/<competitor>``, with ``_low``, ``_high``, ``_within``, ``_within_low``, ``_within_high``:
    what the same
      question gets without RDRW: ``prefix`` (length shared with y_w*), ``position`` (shown higher =
          more likely relevant), ``embedding`` (cosine of the items' embeddings), ``reward`` (the
          negative's own log π/|y|).
    ``squeeze/…``: mean log π, nats, of ``star``, ``others`` (Y_pos without y_w*), ``negatives``
    (true ones),
      ``pseudo``, ``unrelated`` (drawn SIDs that the request did not show); of the first code
      ``top`` (largest probability) and ``entropy``.  ``…_change`` (with ``_low``, ``_high``): minus
      the reference's on the same lists.
    ``contrast/push_softmax``, ``contrast/push_printed``: mean σ(−βz) at β = 2, w = 1;
    ``contrast/push``: under
      ``cfg``'s reading, β and RDRW (RAD-DPO objectives only); ``…_saturated``: share of lists where
      it is below .05.
    ``gradient/ratio``, ``gradient/cosine``: ‖∇_θ L_PL‖ / ‖∇_θ L_SFT‖ and cosine of the two over all
    trainable
      parameters: ``cfg``'s own contrast against eq. 1; ``ratio_logp``: the ratio on log-probs, as
          in the training log; ``raddpo_ratio``, ``raddpo_cosine``: of one contrast for all models
          (softmax, β = 2, TLGD, w = 1).
    ``prefix/…`` (that contrast without TLGD, and with it in ``…_tlgd``): ``lists`` the share of the
    batch's lists
      where a negative shares y_w*'s first code; on these ``cancelled``, the share of y_w*'s pull on
      its first code that the negatives take back (with TLGD: none), and cosines between the
      gradients of y_w*'s part and the negatives' part: ``cos_head`` list by list on the first
      level's head, then averaged (a list whose negatives TLGD silences is left out), ``cos_level1``
      of the batch on the first level's head and embeddings, ``cos_all`` on all parameters.
    ``pairs/…``: ``count``; ``pseudo`` the share of truly relevant negatives; ``shared1``,
    ``shared2`` of pairs with as
      many equal codes; ``accuracy`` (r_w* > r_j) and ``margin`` (mean r_w* − r_j), also ``_true``
      and ``_pseudo``; of all pairs, dropped ones included, the share ``separable`` (different SIDs
      and different true grade) and ``inverted`` (separable, and the negative is the better one).
    ``lists/…``: ``count``; ``dropped``, ``repeated``: share of shown negatives left out because a
    positive, or another
      negative, has their SID.
    """
    if not lists:
        raise ValueError("no lists to probe on; is the split empty?")
    truth = Truth.of(lists)
    cluster = auc.numbered([x.cluster for x in lists])
    times = auc.multiplicities(int(cluster.max()) + 1, samples, seed)
    said = measure(model, lists) if said is None else said
    figures = {
        **_pairs(lists, truth, said),
        **_similarity(truth, said, cfg, cluster, times),
        **_competitors(truth, said, vectors, cluster, times),
        **_squeeze(truth, said, None, cluster, times),
        **push_figures(truth, said, cfg, max_negatives),
    }
    if before is None and reference is not None:
        before = measure(reference, lists, states=False)
    if before is not None:
        figures |= _squeeze(truth, said, before, cluster, times)
    window = window_at(said.similarity[cfg.rdrw_state][taken(truth, max_negatives)], cfg)
    return figures | gradient_figures(
        model, lists, cfg, window, reference=reference, max_negatives=max_negatives
    )


def oscillation(log_rows: Iterable[Mapping[str, Any]], *, width: int = 9) -> float:
    """Variance over the logged steps of log π(first code of y_w*), around its running mean. NaN
    below 3 rows.

    ``log_rows``: records of log.jsonl, those of kind ``train`` with ``logp/star_first`` count.  The
    running mean takes ``width`` records, centred, fewer at the ends.  Each record is of another
    batch, and that moves it more than any method: compare runs of one seed and one ``log_every``
    only.
    """
    series = _star_first(log_rows)
    values = np.array([series[step] for step in sorted(series)])
    if len(values) < 3:
        return float("nan")
    half = width // 2
    trend = [values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))]
    return float(np.var(values - np.array(trend)))


def _star_first(rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    return {
        int(r["step"]): float(r["logp/star_first"])
        for r in rows
        if r.get("kind") == "train" and r.get("logp/star_first") is not None
    }


# ---------------------------------------------------------------------- the groups of figures


def _pairs(lists: Sequence[LabelledList], truth: Truth, said: Measured) -> dict[str, float]:
    negative, pseudo = truth.negative, truth.pseudo
    dropped = sum(x.dropped for x in lists)
    shown = max(sum(x.negatives_shown for x in lists), 1)
    star_grade = truth.of_star(truth.grade)[:, None]
    margin = truth.of_star(said.reward)[:, None] - said.reward
    # a dropped negative was a pair that nothing could separate
    all_pairs = max(negative.sum() + dropped, 1)
    figures = {
        "lists/count": float(len(lists)),
        "lists/dropped": dropped / shown,
        "lists/repeated": sum(x.repeated for x in lists) / shown,
        "pairs/count": float(negative.sum()),
        "pairs/pseudo": _mean(pseudo[negative]),
        "pairs/shared1": _mean(said.prefix[negative] >= 1),
        "pairs/shared2": _mean(said.prefix[negative] >= 2),
        "pairs/separable": float((negative & (truth.grade != star_grade)).sum() / all_pairs),
        "pairs/inverted": float((negative & (truth.grade > star_grade)).sum() / all_pairs),
    }
    for end, mask in (
        ("", negative),
        ("_true", negative & ~pseudo),
        ("_pseudo", negative & pseudo),
    ):
        figures[f"pairs/accuracy{end}"] = _mean(margin[mask] > 0)
        figures[f"pairs/margin{end}"] = _mean(margin[mask])
    return figures


def _similarity(
    truth: Truth, said: Measured, cfg: AlignConfig, cluster: np.ndarray, times: np.ndarray
) -> dict[str, float]:
    figures = {}
    owner = np.nonzero(truth.negative)[0]
    pseudo, prefix = truth.pseudo[truth.negative], said.prefix[truth.negative]
    for state in STATES:
        sims = said.similarity[state][truth.negative]
        known = np.isfinite(sims)
        q25, q50, q75 = anchors = quartiles(sims[known])
        weights = eq6(sims, anchors, cfg.rdrw_lambda)
        found = auc.separation(sims, pseudo, owner, cluster, times)
        found |= {"q25": q25, "q50": q50, "q75": q75, "spread": q75 - q25}
        found["prefix_correlation"] = _correlation(sims[known], prefix[known])
        found["weight_pseudo"], found["weight_true"] = (
            _mean(weights[pseudo]),
            _mean(weights[~pseudo]),
        )
        figures |= {f"rdrw/{state}/{name}": value for name, value in found.items()}
    return figures


def _competitors(
    truth: Truth, said: Measured, vectors: np.ndarray | None, cluster: np.ndarray, times: np.ndarray
) -> dict[str, float]:
    tables: dict[str, np.ndarray] = {"prefix": said.prefix.astype(float), "reward": said.reward}
    if (truth.position > 0).any():
        tables["position"] = np.where(truth.position > 0, -truth.position.astype(float), np.nan)
    if vectors is not None:
        tables["embedding"] = embedding_similarity(truth, vectors)
    figures = {}
    owner, pseudo = np.nonzero(truth.negative)[0], truth.pseudo[truth.negative]
    for name, table in tables.items():
        found = auc.separation(table[truth.negative], pseudo, owner, cluster, times)
        figures |= {f"auc/{name}{key.removeprefix('auc')}": value for key, value in found.items()}
    return figures


def _squeeze(
    truth: Truth, said: Measured, before: Measured | None, cluster: np.ndarray, times: np.ndarray
) -> dict[str, float]:
    """``squeeze/*`` of a model, or its changes against ``before``."""
    star = np.zeros_like(truth.positive)
    star[np.arange(len(star)), truth.star] = True
    masks = {
        "star": star,
        "others": truth.positive & ~star,
        "negatives": truth.negative & ~truth.pseudo,
        "pseudo": truth.pseudo,
        "unrelated": truth.unrelated,
    }
    one = np.ones(len(star))
    logp, top, entropy = said.logp, said.top, said.entropy
    if before is not None:
        logp, top, entropy = logp - before.logp, top - before.top, entropy - before.entropy
    sums = {
        name: (np.where(mask, logp, 0.0).sum(1), mask.sum(1).astype(float))
        for name, mask in masks.items()
    }
    sums |= {"top": (top, one), "entropy": (entropy, one)}
    figures = {}
    for name, (total, count) in sums.items():
        found = auc.ratio(total, count, cluster, times)
        if before is None:
            figures[f"squeeze/{name}"] = found[""]
        else:
            figures |= {f"squeeze/{name}_change{end}": value for end, value in found.items()}
    return figures


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
