"""What the contrast does: how hard it pushes, its gradient beside SFT's, and who pulls a shared
prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.raddpo.labels import LabelledList
from experiments.raddpo.tables import Measured, Truth, eq6, quartiles
from sidar.align import SimilarityWindow, gradient_ratio, multi_label_sft, objective
from sidar.align.raddpo import BETAS, Form, plackett_luce
from sidar.align.terms import of_star, shared_prefix
from sidar.config import AlignConfig
from sidar.lm.candidates import Candidate
from sidar.lm.model import SidLM
from sidar.lm.packing import pack, score
from sidar.types import CandidateScores

#: Below this σ(−βz) a list pushes y_w* so little that its contrast is called saturated.
SATURATED = 0.05


def cut(one: LabelledList, max_negatives: int) -> list[Candidate]:
    """The list as training would see it: its positives and the first
    ``max_negatives`` negatives.
    """
    listed = one.example.candidates
    positives = [c for c in listed if c.is_positive]
    return positives + [c for c in listed if not c.is_positive][:max_negatives]


def taken(truth: Truth, max_negatives: int) -> np.ndarray:
    """(B, C) bool: the negatives that :func:`cut` keeps."""
    return truth.negative & (np.cumsum(truth.negative, axis=1) <= max_negatives)


def some(lists: Sequence[LabelledList], count: int) -> list[LabelledList]:
    """``count`` lists with negatives, evenly spread over those that ``lists`` has."""
    able = [one for one in lists if any(not c.is_positive for c in one.example.candidates)]
    places = np.unique(np.linspace(0, max(len(able) - 1, 0), min(count, len(able))).astype(int))
    return [able[p] for p in places]


def yardstick(cfg: AlignConfig, *, tlgd: bool) -> AlignConfig:
    """RAD-DPO's contrast as every model is measured by it: softmax reading, β = 2, no RDRW."""
    return AlignConfig(objective="raddpo", beta=2.0, rdrw=False, tlgd=tlgd, lcp=cfg.lcp)


def window_at(similarities: np.ndarray, cfg: AlignConfig) -> SimilarityWindow | None:
    """An RDRW window that is past its warm-up, anchored at the quartiles of ``similarities``; None
    where RDRW is off.

    A trained run's own window is gone with the run; this is what it would hold had it seen these
    pairs last.
    """
    known = similarities[np.isfinite(similarities)]
    if not cfg.rdrw or not len(known):
        return None
    window = SimilarityWindow(len(known), lam=cfg.rdrw_lambda, update="frozen")
    window.add(torch.from_numpy(known))
    return window


def gradients(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """∂ value / ∂ each of ``parameters``, zeros where it does not depend on one;
    the graph is kept.
    """
    found = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product of two gradients, tensor by tensor."""
    return float(sum(torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)))


def norm(a: Sequence[Tensor]) -> float:
    return dot(a, a) ** 0.5


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The cosine of two gradients; NaN where one is zero: nothing pulls, so there is no angle."""
    length = norm(a) * norm(b)
    return dot(a, b) / length if length > 0 else float("nan")


def pulls(scores: CandidateScores, contrast: Tensor) -> tuple[Tensor, Tensor]:
    """∂L_PL/∂logp (B, C, S) split into y_w*'s part and the negatives', each zero elsewhere.

    The gradient of any parameter is the sum of the two, each times ∂logp.
    """
    pull = torch.autograd.grad(contrast, scores.logp, retain_graph=True)[0]
    star = torch.zeros_like(scores.is_positive)
    star[torch.arange(len(star), device=star.device), scores.star] = True
    return torch.where(star[..., None], pull, 0.0), torch.where(
        scores.is_negative[..., None], pull, 0.0
    )


def first_step_cosines(scores: CandidateScores, positive: Tensor, negatives: Tensor) -> Tensor:
    """(B,) cosine of y_w*'s and the negatives' gradients on the first level's head, list by list;
    NaN = one is zero.

    Exact without a backward pass: all first codes of a list are written from one state h, so its
    gradient on the head is (Σ_c pull_c (onehot(c) − p)) hᵀ, and h drops out of the cosine.
    ``positive``, ``negatives`` from :func:`pulls`.
    """
    p = scores.first_logp.float().exp()  # (B, K)

    def on_head(pull: Tensor) -> Tensor:
        at = pull[..., 0].float()  # (B, C)
        # level 1 has the first tokens: a token is its code
        codes = scores.tokens[..., 0].clamp(min=0)
        return torch.zeros_like(p).scatter_add_(1, codes, at) - at.sum(1, keepdim=True) * p

    a, b = on_head(positive), on_head(negatives)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))  # 0/0 = NaN on purpose


def gradient_figures(
    model: SidLM,
    lists: Sequence[LabelledList],
    cfg: AlignConfig,
    window: SimilarityWindow | None,
    *,
    reference: SidLM | None = None,
    max_negatives: int = 3,
    count: int = 24,
) -> dict[str, float]:
    """``gradient/*`` and ``prefix/*`` of :func:`experiments.raddpo.mechanisms.probe` on a batch of
    ``count`` lists.

    One forward and six backward passes.  An objective that needs a reference has no figures of its
    own without one.
    """
    batch = some(lists, count)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "gradients of a model whose parameters are all frozen; load it with "
            "SidLM.from_pretrained"
        )
    packed = pack(
        [x.example.tokens for x in batch], [cut(x, max_negatives) for x in batch], model.vocab
    )
    packed = packed.to(model.device)
    chosen = objective(cfg.objective)
    was_training = model.training
    model.eval()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        # shuffled weights are drawn; the caller's random state is left as it was
        torch.manual_seed(0)
        scores = score(
            model, packed, rdrw_state=cfg.rdrw_state if chosen.needs_window and cfg.rdrw else None
        )
        sft = multi_label_sft(scores)
        of_sft = gradients(sft, parameters)
        figures = {}
        if not chosen.needs_reference or reference is not None:
            if chosen.needs_reference:
                with torch.no_grad():
                    scores.ref_logp = score(reference, packed).logp
            contrast = chosen.parts(scores, cfg, window).contrast
            if contrast is not None:
                figures = _against(gradients(contrast, parameters), of_sft, "gradient/")
                figures["gradient/ratio_logp"] = float(gradient_ratio(contrast, sft, scores.logp))
        plain, guarded = (
            objective("raddpo").parts(scores, yardstick(cfg, tlgd=tlgd), None).contrast
            for tlgd in (False, True)
        )
        figures |= _against(gradients(guarded, parameters), of_sft, "gradient/raddpo_")
        figures |= _prefix(model, scores, pulls(scores, plain), pulls(scores, guarded)[1])
    model.train(was_training)
    return figures


def _against(contrast: Sequence[Tensor], sft: Sequence[Tensor], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}ratio": norm(contrast) / max(norm(sft), 1e-30),
        f"{prefix}cosine": cosine(contrast, sft),
    }


def _prefix(
    model: SidLM, scores: CandidateScores, plain: tuple[Tensor, Tensor], guarded: Tensor
) -> dict[str, float]:
    """Who pulls a shared prefix: ``plain`` both parts without TLGD, ``guarded`` the negatives'
    under TLGD.
    """
    shared = (shared_prefix(scores) >= 1) & scores.is_negative  # (B, C)
    sharing = shared.any(-1)
    figures = {"prefix/lists": float(sharing.float().mean())}
    if not sharing.any():
        return figures
    positive, negatives = plain
    up = -of_star(positive, scores.star)[:, 0]  # (B,) y_w*'s pull on its first code
    down = torch.where(shared, negatives[..., 0], 0.0).sum(-1)
    figures["prefix/cancelled"] = float((down / up)[sharing].mean())
    kept = sharing[:, None, None]
    parameters = [p for p in model.parameters() if p.requires_grad]
    first = [i for i, p in enumerate(parameters) if p is model.heads[0] or p is model.sid_in]
    codes = model.vocab.codebook_sizes[0]  # level 1 has the first rows of sid_in
    of_positive = gradients((positive * kept * scores.logp).sum(), parameters)
    for end, pull in (("", negatives), ("_tlgd", guarded)):
        cosines = first_step_cosines(scores, positive, pull)[sharing]
        figures[f"prefix/cos_head{end}"] = float(cosines.nanmean())
        of_negatives = gradients((pull * kept * scores.logp).sum(), parameters)
        level1 = ([of[i][:codes] for i in first] for of in (of_positive, of_negatives))
        figures[f"prefix/cos_level1{end}"] = cosine(*level1)
        figures[f"prefix/cos_all{end}"] = cosine(of_positive, of_negatives)
    return figures


def push_figures(
    truth: Truth, said: Measured, cfg: AlignConfig, max_negatives: int
) -> dict[str, float]:
    """``contrast/*`` of the probe: σ(−βz) = 1 − exp(−L_PL) of lists with their first
    ``max_negatives`` negatives.
    """
    kept = taken(truth, max_negatives)
    some = kept.any(1)
    if not some.any():
        return {}
    margins = torch.from_numpy(
        np.where(kept, truth.of_star(said.reward)[:, None] - said.reward, 0.0)
    )[some]
    mask = torch.from_numpy(kept)[some]
    forms: dict[str, dict[str, Any]] = {
        "push_softmax": {"form": "softmax", "beta": 2.0},
        "push_printed": {"form": "printed", "beta": 2.0},
    }
    if cfg.objective in ("raddpo", "raddpo-paper"):
        form: Form = "printed" if cfg.objective == "raddpo-paper" else "softmax"
        beta = BETAS[form] if cfg.beta is None else cfg.beta
        weights = torch.from_numpy(_weights(said, kept, cfg))[some] if cfg.rdrw else None
        forms["push"] = {
            "form": form,
            "beta": beta,
            "weights": weights,
            "beta_inside": cfg.beta_inside,
        }
    figures = {}
    for name, settings in forms.items():
        push = -torch.expm1(-plackett_luce(margins, mask, **settings))
        figures[f"contrast/{name}"] = float(push.mean())
        figures[f"contrast/{name}_saturated"] = float((push < SATURATED).double().mean())
    return figures


def _weights(said: Measured, kept: np.ndarray, cfg: AlignConfig) -> np.ndarray:
    """(B, C) what ``cfg`` weighs the ``kept`` (B, C) negatives with, at these pairs' own quartiles;
    1 elsewhere.
    """
    weights = np.ones(kept.shape)
    if cfg.rdrw_weights == "constant":
        weights[kept] = cfg.rdrw_constant
        return weights
    sims = said.similarity[cfg.rdrw_state][kept]
    found = eq6(sims, quartiles(sims[np.isfinite(sims)]), cfg.rdrw_lambda)
    weights[kept] = (
        np.random.default_rng(0).permutation(found) if cfg.rdrw_weights == "shuffled" else found
    )
    return weights
