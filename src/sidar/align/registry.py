"""Objectives by name: what ``align.objective`` in ``sidar.yaml`` means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from sidar.align.adagrpo import adagrpo
from sidar.align.dpo import dmpo, dpo, sdpo
from sidar.align.eggrpo import eggrpo
from sidar.align.grpo import grpo
from sidar.align.monitor import list_statistics
from sidar.align.orpo import orpo
from sidar.align.raddpo import raddpo_contrast
from sidar.align.rdrw import SimilarityWindow
from sidar.align.recast import recast
from sidar.align.sft import multi_label_sft
from sidar.align.simpo import simpo
from sidar.align.terms import refuse_negative_weights
from sidar.config import GRPO_DEFAULTS, AlignConfig, resolved_grpo
from sidar.extensions import OBJECTIVES, check_function, check_name
from sidar.types import CandidateScores

#: A function of scores and options; any pydantic model, or None.
Contrast = Callable[[CandidateScores, Any], Tensor]


@dataclass(frozen=True)
class Parts:
    """An objective's two halves, kept apart so that their gradients can be compared; either may be
    absent.
    """

    sft: Tensor | None
    contrast: Tensor | None
    logs: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        parts = [part for part in (self.sft, self.contrast) if part is not None]
        if not parts:
            raise ValueError(
                "nothing left to train: the objective has no contrast and mlsft is none"
            )
        return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class Objective:
    """A preference objective as a function of :class:`~sidar.types.CandidateScores` alone.

    ``needs_reference``: ``ref_logp`` must be filled.  ``needs_window``: RDRW may run, so a window
    must be kept.  ``needs_rollouts``: ``rollout`` and ``reward`` must be filled with a group of
    SIDs that the policy wrote for each prompt; whether such an objective compares with a reference
    is up to the weight of its KL term.  Weights of positives count everywhere but in a group, whose
    rewards say what a SID is worth (:func:`~sidar.align.terms.list_mean`, eq. 1).  Weights of
    negatives are part of RAD-DPO's contrast; ``sft`` uses no negative, and every other objective
    raises ``ValueError`` on them.
    """

    name: str
    parts: Callable[[CandidateScores, AlignConfig, SimilarityWindow | None], Parts]
    needs_reference: bool = False
    needs_window: bool = False
    needs_rollouts: bool = False

    def compares_with_reference(self, cfg: AlignConfig) -> bool:
        """Return whether ``ref_logp`` must be filled under ``cfg``."""
        name = self.name.removesuffix("+sft")
        if not self.needs_rollouts or name not in GRPO_DEFAULTS:
            return self.needs_reference
        return bool(resolved_grpo(name, cfg.grpo, cfg.eggrpo).kl)

    def loss(
        self, scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's loss () and scalars to log; ``state`` is updated where RDRW runs."""
        parts = self.parts(scores, cfg, state)
        logs = {**list_statistics(scores), **parts.logs, "loss": parts.total.detach()}
        for name, part in (("sft", parts.sft), ("contrast", parts.contrast)):
            if part is not None:
                logs[f"loss/{name}"] = part.detach()
        return parts.total, logs


def sft_term(scores: CandidateScores, cfg: AlignConfig) -> Tensor | None:
    """Eq. 1 under ``mlsft``: all positives, y_w* only (the table's "w/o Multi-label
    SFT"), or None.
    """
    if cfg.mlsft == "none":
        return None
    return multi_label_sft(scores, cfg.positives or "mean", cfg.mlsft)


def _raddpo(form: str) -> Callable[[CandidateScores, AlignConfig, SimilarityWindow | None], Parts]:
    def parts(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
        contrast, logs = raddpo_contrast(
            scores, cfg, state, form="printed" if form == "printed" else "softmax"
        )
        return Parts(sft_term(scores, cfg), contrast, logs)

    return parts


def _sft(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
    return Parts(sft_term(scores, cfg), None, {})


def _orpo(
    plus_sft: bool,
) -> Callable[[CandidateScores, AlignConfig, SimilarityWindow | None], Parts]:
    def parts(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
        refuse_negative_weights(scores, cfg.objective)
        likelihood, odds = orpo(scores, cfg)
        term = sft_term(scores, cfg) if plus_sft else None
        return Parts(likelihood if term is None else likelihood + term, odds, {})

    return parts


def _baseline(
    contrast: Callable[[CandidateScores, AlignConfig], Tensor], plus_sft: bool
) -> Callable[[CandidateScores, AlignConfig, SimilarityWindow | None], Parts]:
    def parts(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
        refuse_negative_weights(scores, cfg.objective)
        return Parts(sft_term(scores, cfg) if plus_sft else None, contrast(scores, cfg), {})

    return parts


def _groupwise(
    contrast: Callable[[CandidateScores, AlignConfig], tuple[Tensor, dict[str, Tensor]]],
    plus_sft: bool,
) -> Callable[[CandidateScores, AlignConfig, SimilarityWindow | None], Parts]:
    """Return the parts of an objective with rollouts: eq. 1 + c · surrogate, or the surrogate."""

    def parts(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
        refuse_negative_weights(scores, cfg.objective)
        loss, logs = contrast(scores, cfg)
        if not plus_sft:
            return Parts(None, loss, logs)
        return Parts(sft_term(scores, cfg), cfg.grpo.mix * loss, logs)

    return parts


def _adagrpo(scores: CandidateScores, cfg: AlignConfig, state: SimilarityWindow | None) -> Parts:
    refuse_negative_weights(scores, cfg.objective)
    loss, logs = adagrpo(scores, cfg)
    return Parts(sft_term(scores, cfg), loss, logs)


def _register_built_in() -> None:
    built_in = [
        Objective("raddpo", _raddpo("softmax"), needs_window=True),
        Objective("raddpo-paper", _raddpo("printed"), needs_window=True),
        Objective("sft", _sft),
        Objective("adagrpo", _adagrpo, needs_rollouts=True),
    ]
    surrogates = {name: grpo(name) for name in ("grpo", "drgrpo", "dapo", "gspo", "minionerec")}
    for plus in ("", "+sft"):
        built_in += [
            Objective(f"dpo{plus}", _baseline(dpo, bool(plus)), needs_reference=True),
            Objective(f"sdpo{plus}", _baseline(sdpo, bool(plus)), needs_reference=True),
            Objective(f"dmpo{plus}", _baseline(dmpo, bool(plus)), needs_reference=True),
            Objective(f"simpo{plus}", _baseline(simpo, bool(plus))),
            Objective(f"orpo{plus}", _orpo(bool(plus))),
        ]
        for name, contrast in {**surrogates, "eggrpo": eggrpo, "recast": recast}.items():
            parts = _groupwise(contrast, bool(plus))
            built_in.append(Objective(name + plus, parts, needs_rollouts=True))
    for each in built_in:
        OBJECTIVES.add(each.name, each, __name__)


_register_built_in()


def register_objective(
    name: str,
    options: type[BaseModel] | None = None,
    *,
    needs_reference: bool = False,
    needs_rollouts: bool = False,
) -> Callable[[Contrast], Contrast]:
    """Return a decorator for a function ``(scores, options) -> () loss`` that trains under
    ``align.objective: <name>``.

    ``scores``: a batch of B lists × C candidates (:class:`~sidar.types.CandidateScores`);
    ``ref_logp`` is there with ``needs_reference``; ``rollout`` and ``reward``, of a group of SIDs
    that the policy wrote, with ``needs_rollouts``. ``options``: an instance of the model given
    here, read from ``align.<name>``; None without one. ``<name>+sft`` is registered beside it: the
    same with eq. 1 of RAD-DPO added, as for every baseline.
    """

    check_name(name, "register_objective")

    def add(contrast: Contrast) -> Contrast:
        check_function(contrast, "scores", "options")

        def with_options(scores: CandidateScores, cfg: AlignConfig) -> Tensor:
            return checked_loss(name, contrast(scores, cfg.section(name)), scores)

        for plus in ("", "+sft"):
            made = Objective(
                name + plus,
                _baseline(with_options, bool(plus)),
                needs_reference=needs_reference,
                needs_rollouts=needs_rollouts,
            )
            OBJECTIVES.add(made.name, made, contrast.__module__, None if plus else options)
        return contrast

    return add


def checked_loss(name: str, loss: Any, scores: CandidateScores) -> Tensor:
    """Return the loss of a plug-in; ``ValueError`` where it is no number () with a gradient."""
    got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    if not isinstance(loss, Tensor) or loss.ndim:
        raise ValueError(
            f"align.objective {name!r} ({OBJECTIVES.file(name)}): must return the mean loss, a "
            f"tensor (), got {got}"
        )
    if scores.logp.requires_grad and not loss.requires_grad:
        raise ValueError(
            f"align.objective {name!r} ({OBJECTIVES.file(name)}): the loss has no gradient; make "
            "it from scores.logp without detach() or item()"
        )
    return loss


def names() -> list[str]:
    """Return the name of every objective that :func:`objective` knows."""
    return OBJECTIVES.names()


def objective(name: str) -> Objective:
    """The objective called ``name``; ``ValueError`` lists the known ones.

    ``raddpo`` is the softmax reading and ``raddpo-paper`` the printed one; ``sft`` is
    SFT-continued; ``+sft`` adds eq. 1 to a baseline (RAD-DPO contains it).
    """
    return OBJECTIVES[name]
