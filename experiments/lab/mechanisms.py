"""Experiments A (squeezing), B (TLGD's coefficient) and C (printed against softmax)."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.lab.figures import Figures, minus
from experiments.lab.policy import (
    BETA,
    K1,
    K2,
    K3,
    as_scores,
    leaf_logp,
    prepared,
    quality,
    step_logp,
    train,
)
from experiments.lab.world import RELEVANT, SEEN, Dials, World
from sidar.align import gradient_ratio, objective
from sidar.align.raddpo import plackett_luce
from sidar.align.terms import shared_prefix
from sidar.config import AlignConfig

METHODS = ("sft", "dpo", "dpo+sft", "simpo", "sdpo", "raddpo", "raddpo-paper")
EVERY = 10
SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
NS, BETAS, FORMS = (1, 3, 7, 16), (0.5, 1.0, 2.0, 5.0), ("raddpo", "raddpo-paper")


@torch.no_grad()
def squeezing_state(world: World, table: Tensor) -> dict[str, Tensor]:
    """(S,) each: mean log π over the log's lists of y_w*, of the other positives, of the negatives;
    of the relevant items that no click reaches; the mass of the most probable SID."""
    logp = leaf_logp(table)
    listed = logp[:, None].expand(-1, world.items.shape[1], -1).gather(2, world.leaves)
    star = torch.zeros_like(world.tier, dtype=torch.bool).scatter(2, world.star[..., None], True)

    def over(keep: Tensor) -> Tensor:
        return (listed * keep).sum((1, 2)) / keep.sum((1, 2))

    states = {
        "star": over(star),
        "others": over((world.tier > 0) & ~star),
        "negatives": over(world.tier == 0),
        "unseen": logp.gather(1, world.pool[:, SEEN.stop : RELEVANT.stop]).mean(1),
        "argmax": logp.amax(1).exp(),
    }
    return {name: value.view(world.seeds, -1).mean(1) for name, value in states.items()}


def squeezing(figures: Figures, seeds: int) -> None:
    """A: what each objective does to log π of every kind of SID; no pseudo-negatives."""
    world, sft = prepared(Dials(noise=0.0), seeds)
    start, before = squeezing_state(world, sft), quality(world, sft)
    figures.put_all("A/start", {**start, **before})
    for name in METHODS:
        curve: list[tuple[int, dict[str, Tensor]]] = []

        def watch(step: int, table: Tensor, curve=curve, world=world) -> None:
            if step % EVERY == 0:
                curve.append((step, squeezing_state(world, table)))

        after = quality(world, train(world, sft, name, watch=watch))
        for step, state in curve:
            for key, value in state.items():
                figures[f"A/{name}/step={step}/{key}"] = value.mean().item()
        figures.put_all(f"A/{name}/change", minus(curve[-1][1], start))
        figures.put_all(f"A/{name}/change", minus(after, before))


def prefix_slopes(
    world: World, table: Tensor, tlgd: bool, varied: bool, level: int
) -> tuple[Tensor, Tensor]:
    """(lists,) gradient of L_PL, by the shipped objective, on the log-prob of y_w*'s code at
    ``level`` of the lists whose negatives share it, and what docs/methods/raddpo.md says it is;
    both divided by the push on y_w*.

    ``varied`` cuts some SIDs to two codes, as SARQ does.  float64.
    """
    m = torch.arange(len(table)) % world.items.shape[1]
    rows = torch.arange(len(table))
    leaves, tier, star = world.leaves[rows, m], world.tier[rows, m], world.star[rows, m]
    logp = step_logp(table.double(), leaves).requires_grad_()
    scores = as_scores(logp, leaves, tier, star, world.cosine[rows, m].double())
    if varied:
        scores.mask[:, 1::2, 2] = False
    cfg = AlignConfig(beta=BETA, tlgd=tlgd, rdrw=False, mlsft="none")
    loss = objective("raddpo").parts(scores, cfg, None).total * len(table)
    (slope,) = torch.autograd.grad(loss, logp)
    length = scores.mask.sum(-1).double()
    reward = torch.where(scores.mask[..., :3], logp.detach(), 0.0).sum(-1) / length
    negative = scores.is_negative
    # share of each negative in the push
    q = reward.masked_fill(~negative, float("-inf")).softmax(-1)
    margin = reward[rows, star][:, None] - reward
    z = -torch.where(negative, -margin, float("-inf")).logsumexp(-1)
    push = 2.0 * torch.sigmoid(-2.0 * z)
    sharing = negative & (shared_prefix(scores) > level)
    got = -(slope[rows, star, level] + (slope[..., level] * sharing).sum(-1)) / push
    expected = 1 / length[rows, star]
    if not tlgd:
        expected = expected - (q / length * sharing).sum(-1)
    some = sharing.any(-1)
    return got[some], expected[some]


def coefficients(figures: Figures, seeds: int) -> None:
    """B, first part: TLGD's coefficient against its formula, at both prefix levels, equal and
    varied lengths.
    """
    world, sft = prepared(Dials(), seeds)
    for varied in (False, True):
        for tlgd in (False, True):
            pairs = [prefix_slopes(world, sft, tlgd, varied, level) for level in (0, 1)]
            name = f"B/coefficient/{'varied' if varied else 'equal'}/tlgd={'on' if tlgd else 'off'}"
            error = max((got - want).abs().max().item() for got, want in pairs)
            figures[f"{name}/error_1e9"] = 1e9 * error  # results keep six decimals
            figures[f"{name}/mean"] = pairs[0][0].mean().item()
            figures[f"{name}/negative"] = (pairs[0][0] < -1e-9).double().mean().item()


def oscillation(curve: Tensor) -> Tensor:
    """(W,) variance of (T, W) over its second half once a straight line is taken out."""
    half = curve[len(curve) // 2 :]
    x = torch.arange(len(half), dtype=half.dtype)
    x = (x - x.mean()) / x.std(unbiased=False)
    centred = half - half.mean(0)
    return (centred - x[:, None] * (x[:, None] * centred).mean(0)).square().mean(0)


def shared_prefixes(figures: Figures, seeds: int) -> None:
    """B, second part: what the coefficient does to quality, validity and oscillation (T11) over
    prefix sharing.
    """
    for share in SHARES:
        world, sft = prepared(Dials(share=share), seeds)
        first = world.pool[:, 0] // (K2 * K3)
        results = {}
        for label, name, tlgd in (
            ("sft", "sft", True),
            ("off", "raddpo", False),
            ("on", "raddpo", True),
        ):
            curve: list[Tensor] = []

            def watch(step: int, table: Tensor, curve=curve, first=first) -> None:
                curve.append(table[:, :K1].log_softmax(-1).gather(1, first[:, None])[:, 0])

            kept = train(world, sft, name, rdrw=False, tlgd=tlgd)
            train(world, sft, name, rdrw=False, tlgd=tlgd, schedule="constant", watch=watch)
            swing = oscillation(torch.stack(curve)).view(seeds, -1).mean(1)
            results[label] = {**quality(world, kept), "oscillation": swing}
            figures.put_all(f"B/share={share}/{label}", results[label])
        figures.put_all(f"B/share={share}/on-off", minus(results["on"], results["off"]))
        figures.put_all(f"B/share={share}/off-sft", minus(results["off"], results["sft"]))


def pushes(world: World, table: Tensor, form: str, beta: float) -> dict[str, Tensor]:
    """Push on y_w*, pull on the hardest and the easiest negative (S,), over the first list of every
    query.
    """
    reward = step_logp(table, world.leaves[:, 0]).mean(-1)
    negative, star = world.tier[:, 0] == 0, world.star[:, 0, None]
    best = reward.gather(1, star).detach().requires_grad_()
    others = reward.detach().requires_grad_()
    printed = form == "raddpo-paper"
    loss = plackett_luce(
        best - others, negative, beta=beta, form="printed" if printed else "softmax"
    ).sum()
    up, down = torch.autograd.grad(loss, (best, others))
    hardest = reward.masked_fill(~negative, float("-inf")).argmax(1, keepdim=True)
    easiest = reward.masked_fill(~negative, float("inf")).argmin(1, keepdim=True)
    values = {"push": -up, "hardest": down.gather(1, hardest), "easiest": down.gather(1, easiest)}
    return {name: value.view(world.seeds, -1).mean(1) for name, value in values.items()}


def contrast_share(world: World, table: Tensor, name: str, beta: float) -> float:
    """‖∂L_PL/∂logp‖ / ‖∂L_SFT/∂logp‖ on the first list of every query: what the trainer logs."""
    leaves, tier, star = world.leaves[:, 0], world.tier[:, 0], world.star[:, 0]
    logp = step_logp(table, leaves).requires_grad_()
    scores = as_scores(logp, leaves, tier, star, world.cosine[:, 0])
    parts = objective(name).parts(scores, AlignConfig(objective=name, beta=beta, rdrw=False), None)
    return gradient_ratio(parts.contrast, parts.sft, logp).item()


def readings(figures: Figures, seeds: int) -> None:
    """C: the printed and the softmax reading over n and β, against SFT-continued on
    the same lists.
    """
    for n in NS:
        world, sft = prepared(Dials(n=n), seeds)
        plain = quality(world, train(world, sft, "sft"))
        for beta in BETAS:
            for name in FORMS:
                at = f"C/{name}/n={n}/beta={beta:g}"
                figures.put_all(f"{at}/start", pushes(world, sft, name, beta))
                figures[f"{at}/start/ratio"] = contrast_share(world, sft, name, beta)
                after = train(world, sft, name, beta=beta, rdrw=False)
                figures[f"{at}/end/ratio"] = contrast_share(world, after, name, beta)
                figures.put_all(
                    f"{at}-sft",
                    minus(quality(world, after), plain),
                    ("ndcg@10", "best.mrr", "click.mrr"),
                )
