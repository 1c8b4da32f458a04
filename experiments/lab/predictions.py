"""Experiments D (RDRW against noise) and E (when RAD-DPO must beat SFT-continued)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.lab.figures import Figures, minus
from experiments.lab.policy import ALIGN_RATE, ALIGN_STEPS, prepared, quality, train
from experiments.lab.world import Dials
from sidar.align import SimilarityWindow

NOISES, AUCS = (0.0, 0.1, 0.25, 0.5), (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CONTROLS = ("none", "constant", "shuffled")
MEASURES = ("ndcg@10", "best.mrr", "click.mrr")
#: The smallest effect that a language-model run can see on 2,000 queries (docs/evaluation.md).
VISIBLE = 0.005
#: The map of E: every combination.
MAP: dict[str, Sequence[float]] = {
    "share": (0.1, 0.35, 0.8),
    "noise": (0.0, 0.25, 0.5),
    "informative": (0.1, 0.5, 0.9),
    "sft_steps": (10, 40, 160),
}
#: One dial at a time from the standard world (:class:`Dials` as it stands, n = 3, β = 2).
WORLD_LINES: dict[str, Sequence[float]] = {
    "sft_steps": (10, 20, 40, 80, 160),
    "share": (0.1, 0.35, 0.8),
    "noise": (0.0, 0.25, 0.5),
    "informative": (0.1, 0.5, 0.9),
    "accidental": (0.0, 0.15, 0.3, 0.5),
    "lists": (6, 24, 96),
    "n": (1, 3, 7, 16),
}
TRAINING_LINES: dict[str, Sequence[float]] = {
    "beta": (0.5, 1.0, 2.0, 5.0),
    "steps": (25, 50, 100, 200, 400),
    "rate": (0.3, 1.0, 3.0),
}
STANDARD = {**dataclasses.asdict(Dials()), "beta": 2.0, "steps": ALIGN_STEPS, "rate": 1.0}
LINES = {**WORLD_LINES, **TRAINING_LINES}


def mean_weights(figures: Figures, dials: Dials, seeds: int) -> None:
    """Mean w of pseudo-negatives and of true ones under the shipped window: the direction that RDRW
    must have.
    """
    world, _ = prepared(dials, seeds)
    negative = world.tier == 0
    window = SimilarityWindow(size=min(4096, int(negative.sum())))
    window.add(world.cosine[negative])
    weights = torch.ones_like(world.cosine)
    weights[negative], _ = window.weigh(world.cosine[negative])
    for name, keep in (("pseudo", world.pseudo), ("true", negative & ~world.pseudo)):
        total, count = (
            x.view(world.seeds, -1).sum(1) for x in (weights * keep, keep.to(weights.dtype))
        )
        figures.put(f"D/auc={dials.auc:g}/weight/{name}", total / count.clamp(min=1))


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where the broken line through (x, y) rises through ``level`` to stay above it; 2 where it
    ends below.
    """
    above = [value > level for value in y]
    if not above[-1]:
        return 2.0
    last = max((i for i, yes in enumerate(above) if not yes), default=None)
    if last is None:
        return x[0]
    return x[last] + (x[last + 1] - x[last]) * (level - y[last]) / (y[last + 1] - y[last])


def rdrw_against_noise(figures: Figures, seeds: int) -> None:
    """D: quality over noise with RDRW at each AUC, without it, with w = .75 and with its own
    weights shuffled.

    ``threshold``: the AUC from which RDRW beats a control, ``visible``: by :data:`VISIBLE`,
    ``proved``: the first on the dial from which the interval stays above 0; 2 = at no AUC.  Without
    noise there is nothing to recognise: one run with RDRW stands for all.
    """
    for auc in AUCS:
        mean_weights(figures, Dials(auc=auc), seeds)
    for noise in NOISES:
        gains: dict[str, list[float]] = {label: [] for label in CONTROLS}
        lows: dict[str, list[float]] = {label: [] for label in CONTROLS}
        for auc in AUCS if noise else AUCS[:1]:
            # same lists and table, other similarities
            world, sft = prepared(Dials(noise=noise, auc=auc), seeds)
            if auc == AUCS[0]:
                plain = quality(world, train(world, sft, "sft"))
                controls = {"none": quality(world, train(world, sft, "raddpo", rdrw=False))}
                controls["constant"] = quality(
                    world, train(world, sft, "raddpo", weights="constant")
                )
                controls["shuffled"] = quality(
                    world, train(world, sft, "raddpo", weights="shuffled")
                )
                for label, values in controls.items():
                    figures.put_all(f"D/noise={noise}/{label}-sft", minus(values, plain), MEASURES)
            with_rdrw = quality(world, train(world, sft, "raddpo"))
            figures.put_all(f"D/noise={noise}/auc={auc:g}-sft", minus(with_rdrw, plain), MEASURES)
            for label, values in controls.items():
                name = f"D/noise={noise}/auc={auc:g}-{label}"
                figures.put_all(name, minus(with_rdrw, values), MEASURES)
                gains[label].append(figures[f"{name}/ndcg@10"])
                lows[label].append(figures[f"{name}/ndcg@10.lo"])
        for label, gain in gains.items():
            if noise:
                figures[f"D/noise={noise}/threshold/{label}"] = crossing(AUCS, gain, 0.0)
                figures[f"D/noise={noise}/visible/{label}"] = crossing(AUCS, gain, VISIBLE)
                below = [i for i, low in enumerate(lows[label]) if low <= 0]
                figures[f"D/noise={noise}/proved/{label}"] = (*AUCS, 2.0)[
                    below[-1] + 1 if below else 0
                ]


def effect(
    figures: Figures,
    name: str,
    dials: Dials,
    seeds: int,
    *,
    beta: float = 2.0,
    steps: float = ALIGN_STEPS,
    rate: float = 1.0,
    plain: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """(S,) per measure, RAD-DPO as shipped minus SFT-continued; kept as ``name/measure``.

    ``name/headroom`` is what the SFT policy lacks to a perfect nDCG@10; ``rate`` is a multiple of
    the usual one.
    """
    world, sft = prepared(dials, seeds, seed)
    how = {"steps": int(steps), "rate": ALIGN_RATE * rate, "plain": plain}
    continued = quality(world, train(world, sft, "sft", **how))
    gain = minus(quality(world, train(world, sft, "raddpo", beta=beta, **how)), continued)
    gain["headroom"] = 1 - quality(world, sft)["ndcg@10"]
    figures.put_all(name, gain, (*MEASURES, "headroom"))
    return gain


def cell_name(cell: dict[str, float]) -> str:
    return "E/map/" + "/".join(f"{dial}={value:g}" for dial, value in cell.items())


def effect_map(figures: Figures, seeds: int) -> None:
    """E, first part: the full grid; ``E/map/mean/dial=value`` averages all cells with that value,
    seed by seed.
    """
    cells = [dict(zip(MAP, values, strict=True)) for values in itertools.product(*MAP.values())]
    gains = [effect(figures, cell_name(cell), Dials(**cell), seeds) for cell in cells]
    for dial, values in MAP.items():
        for value in values:
            some = [gain for cell, gain in zip(cells, gains, strict=True) if cell[dial] == value]
            for measure in MEASURES:
                mean = torch.stack([gain[measure] for gain in some]).mean(0)
                figures.put(f"E/map/mean/{dial}={value:g}/{measure}", mean)


def effect_lines(figures: Figures, seeds: int) -> None:
    """E, second part: one dial at a time from the standard world, and plain gradient steps beside
    the usual ones.
    """
    usual = effect(figures, "E/standard", Dials(), seeds)
    for dial, values in LINES.items():
        for value in values:
            name = f"E/{dial}={value:g}"
            if value == STANDARD[dial]:
                figures.put_all(name, usual, (*MEASURES, "headroom"))
            elif dial in WORLD_LINES:
                effect(figures, name, Dials(**{dial: value}), seeds)
            else:
                effect(figures, name, Dials(), seeds, **{dial: value})
    for steps in MAP["sft_steps"]:
        effect(
            figures, f"E/plain/sft_steps={steps:g}", Dials(sft_steps=int(steps)), seeds, plain=True
        )


def best_settings(figures: Figures, seeds: int) -> dict[str, dict[str, float]]:
    """E, third part: every dial of the lines where its effect was largest (or smallest), on fresh
    worlds.

    The choice is made on the lines alone and scored once on other random worlds, so that it holds
    no winner's curse.
    """
    chosen = {}
    for label, measure, sign in (
        ("best", "ndcg@10", 1),
        ("worst", "ndcg@10", -1),
        ("click", "click.mrr", 1),
    ):
        setting = {
            dial: max(
                values, key=lambda v, d=dial, m=measure, s=sign: s * figures[f"E/{d}={v:g}/{m}"]
            )
            for dial, values in LINES.items()
        }
        world = Dials(**{dial: setting[dial] for dial in WORLD_LINES})
        how = {dial: setting[dial] for dial in TRAINING_LINES}
        effect(figures, f"E/chosen/{label}", world, seeds, seed=1, **how)
        chosen[label] = setting
        figures.update({f"E/chosen/{label}/dial/{dial}": value for dial, value in setting.items()})
    return chosen
