"""Alignment steps against losses written out by hand, one candidate at a time, with a reference
that stays frozen.

The loop, the task and the objective run as in a stage. Each case changes one option of ``align`` or
several together, so that an option which does not reach the loss, or reaches it in another's place,
shows in the value or the gradient.
"""

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_lm import score_one
from toy_train import align_task, quick, tiny_model, write_backbone

from sidar.config import AlignConfig, OptimConfig, SftConfig
from sidar.fitting.schedule import step_seed
from sidar.lm import Candidate
from sidar.pipeline.plan import REINFORCEMENT
from sidar.train.loop import fit
from sidar.train.order import WINDOW

SEED = 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"), hidden=16, layers=1)


@dataclass
class Listed:
    """One example by hand: per candidate its tokens, counted log-probs, EOS term, reference and
    compared state.
    """

    codes: list[tuple[int, ...]]
    positives: list[int]
    negatives: list[int]
    star: int
    steps: list[torch.Tensor]
    eos: list[torch.Tensor]
    frozen: list[torch.Tensor]
    states: list[torch.Tensor]


@dataclass
class ByHand:
    """The settings of a case, the frozen model, and the similarities that earlier batches had."""

    frozen: torch.nn.Module
    cfg: AlignConfig
    values: list[float] = field(default_factory=list)
    anchors: np.ndarray | None = None

    def read(self, model, example):
        shown = example.candidates
        scored = [score_one(model, list(example.tokens), candidate) for candidate in shown]
        with torch.no_grad():
            asked = shown if self.cfg.objective.startswith(("dpo", "sdpo", "dmpo")) else []
            frozen = [
                torch.stack(score_one(self.frozen, list(example.tokens), c)[0]) for c in asked
            ]
            states = [
                self.state(model, list(example.tokens), c, out[2])
                for c, out in zip(shown, scored, strict=True)
            ]
        positives = [c for c, candidate in enumerate(shown) if candidate.is_positive]
        return Listed(
            [candidate.codes for candidate in shown],
            positives,
            [c for c in range(len(shown)) if c not in positives],
            max(positives, key=lambda c: shown[c].tier),  # the first of the best tier
            [torch.stack(steps) for steps, _, _ in scored],
            [eos for _, eos, _ in scored],
            frozen,
            states,
        )

    def state(self, model, prompt, candidate, out):
        """What RDRW compares, as `align.rdrw_state` names it."""
        if self.cfg.rdrw_state == "eos_out":
            return out.detach()
        # the state that wrote the last code stands on the code before it
        if self.cfg.rdrw_state == "last_code":
            return score_one(model, prompt, Candidate(candidate.codes[:-1], True))[2]
        return sum(
            model.sid_in[model.vocab.offsets[level] + code]
            for level, code in enumerate(candidate.codes)
        )

    def loss(self, model, examples, step):
        """(B₁ · objective(lists) + B₂ · SFT(items)) / (B₁ + B₂)."""
        lists = [self.read(model, x) for x in examples if x.is_list]
        items = [self.read(model, x) for x in examples if not x.is_list]
        total = sum((-(one.steps[0].sum() + one.eos[0]) for one in items), torch.zeros(()))
        if lists:
            total = total + len(lists) * self.objective(lists, step)
        return total / len(examples)

    def objective(self, lists, step):
        name, plus = self.cfg.objective.removesuffix("+sft"), self.cfg.objective.endswith("+sft")
        if name in ("raddpo", "raddpo-paper"):
            return self.eq1(lists) + self.raddpo(lists, step, printed=name == "raddpo-paper")
        if name == "sft":
            return self.eq1(lists)
        contrast = sum(getattr(self, name)(one) if one.negatives else 0.0 for one in lists) / len(
            lists
        )
        if name == "orpo":
            contrast = contrast - sum(one.steps[one.star].mean() for one in lists) / len(lists)
        return contrast + (self.eq1(lists) if plus else 0.0)

    def eq1(self, lists):
        if self.cfg.mlsft == "none":
            return 0.0
        losses = []
        for one in lists:
            wanted = one.positives if self.cfg.mlsft == "all" else [one.star]
            losses.append([-(one.steps[c].sum() + one.eos[c]) for c in wanted])
        if self.cfg.positives == "flat":
            return sum(sum(some) for some in losses) / sum(len(some) for some in losses)
        return sum(sum(some) / len(some) for some in losses) / len(losses)

    def ratio(self, one, c):
        return one.steps[c].sum() - one.frozen[c].sum()

    def dpo(self, one):
        margins = [self.ratio(one, one.star) - self.ratio(one, j) for j in one.negatives]
        return sum(-F.logsigmoid(self.cfg.beta * margin) for margin in margins) / len(margins)

    def sdpo(self, one):
        harder = [
            (self.cfg.beta * (self.ratio(one, j) - self.ratio(one, one.star))).exp()
            for j in one.negatives
        ]
        return -F.logsigmoid(-torch.log(sum(harder)))

    def dmpo(self, one):
        negative = sum(self.ratio(one, j) for j in one.negatives) / len(one.negatives)
        return -F.logsigmoid(self.cfg.beta * (self.ratio(one, one.star) - negative))

    def simpo(self, one):
        margins = [
            one.steps[one.star].mean() - one.steps[j].mean() - self.cfg.gamma for j in one.negatives
        ]
        return sum(-F.logsigmoid(self.cfg.beta * margin) for margin in margins) / len(margins)

    def orpo(self, one):
        def odds(c):
            p = one.steps[c].mean().exp()
            return torch.log(p / (1 - p))

        margins = [odds(one.star) - odds(j) for j in one.negatives]
        return self.cfg.lam * sum(-F.logsigmoid(margin) for margin in margins) / len(margins)

    def raddpo(self, lists, step, printed):
        sims = [
            float(F.cosine_similarity(one.states[one.star], one.states[j], dim=0))
            for one in lists
            for j in one.negatives
        ]
        weights = iter(self.weights(sims, step))
        sign, beta = (1.0 if printed else -1.0), self.cfg.beta
        inner, outer = (beta, 1.0) if self.cfg.beta_inside else (1.0, beta)
        total = torch.zeros(())
        for one in lists:
            if not one.negatives:
                continue
            terms = []
            for j in one.negatives:
                margin = one.steps[one.star].mean() - self.truncated(one, j).mean()
                terms.append(next(weights) * (sign * inner * margin).exp())
            if self.cfg.contrast == "pairwise":
                total = total + sum(
                    -F.logsigmoid(outer * sign * torch.log(term)) for term in terms
                ) / len(terms)
            else:
                total = total - F.logsigmoid(outer * sign * torch.log(sum(terms)))
        return total / len(lists)

    def truncated(self, one, j):
        """TLGD: no gradient through the tokens that the negative shares with y_w*, or with any
        positive.
        """
        if not self.cfg.tlgd:
            return one.steps[j]
        others = [one.star] if self.cfg.lcp == "star" else one.positives
        shared = 0
        for c in others:
            alike = [a == b for a, b in zip(one.codes[c], one.codes[j], strict=True)]
            shared = max(shared, alike.index(False))
        return torch.cat([one.steps[j][:shared].detach(), one.steps[j][shared:]])

    def weights(self, sims, step):
        """Eq. 6 under the anchors of earlier batches; then the anchors of the next batch."""
        cfg = self.cfg
        if not cfg.rdrw:
            return [1.0] * len(sims)
        if cfg.rdrw_weights == "constant":
            return [cfg.rdrw_constant] * len(sims)
        weights = [
            cfg.rdrw_warmup_weight if self.anchors is None else self.eq6(sim) for sim in sims
        ]
        if cfg.rdrw_weights == "shuffled":
            order = torch.randperm(
                len(sims), generator=torch.Generator().manual_seed(step_seed(SEED, step))
            )
            weights = [weights[i] for i in order]
        before, self.values = self.anchors, self.values + sims
        if cfg.rdrw_update == "window" and len(self.values) >= cfg.rdrw_window:
            self.anchors = np.quantile(self.values[-cfg.rdrw_window :], (0.25, 0.5, 0.75))
        elif before is None and len(self.values) >= cfg.rdrw_window:
            self.anchors = np.quantile(self.values[: cfg.rdrw_window], (0.25, 0.5, 0.75))
        elif before is not None and cfg.rdrw_update == "ema" and sims:
            batch = np.quantile(sims, (0.25, 0.5, 0.75))
            self.anchors = (1 - cfg.rdrw_alpha) * before + cfg.rdrw_alpha * batch
        return weights

    def eq6(self, sim):
        q25, q50, q75 = self.anchors
        if sim < q25:
            return 1.0
        return 0.5 if sim > q75 else 0.5 + 0.5 / (1 + np.exp(self.cfg.rdrw_lambda * (sim - q50)))


def assert_by_hand(backbone, folder, **align):
    """Train some steps; assert that their losses and gradients are those by hand."""
    few = {"steps": 3, "batch_size": 6, "clip": 0.0, "item_share": 0.25}
    cfg = quick(AlignConfig, **few | align).resolved(SftConfig())
    model = tiny_model(backbone)
    by_hand = ByHand(copy.deepcopy(model), cfg)
    task = align_task(model, cfg, SEED)
    task.validate = dict
    batch, forward = task.batch, task.forward
    drawn, pairs, grads = [], [], []
    parameters = [p for p in model.parameters() if p.requires_grad]
    pool = [example for step in range(WINDOW) for example in batch(step)]
    items = [example for example in pool if not example.is_list]
    lists = [example for example in pool if example.is_list]
    assert len(items) == pytest.approx(cfg.item_share * len(pool), abs=1)

    def watched_batch(step):
        """Lists and items of the pool in one batch: as drawn, a batch has prompts of one length, so
        one kind.
        """
        batch(step)  # dropout off
        drawn.append([*lists[4 * step : 4 * step + 4], *items[2 * step : 2 * step + 2]])
        return drawn[-1]

    def watched_forward(packed, is_list):
        outcome = forward(packed, is_list)
        want = by_hand.loss(model, drawn[-1], len(drawn) - 1)
        pairs.append((outcome.loss.item(), want.item()))
        grads.append(
            [
                torch.autograd.grad(
                    loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for loss in (outcome.loss, want)
            ]
        )
        return outcome

    task.batch, task.forward = watched_batch, watched_forward
    fit(task, cfg, seed=SEED, device="cpu", work=folder, identity={}, title="toy", progress=False)
    got, want = zip(*pairs, strict=True)
    assert got == pytest.approx(want, rel=2e-5)
    for mine, theirs in grads:
        largest = max(float(grad.abs().max()) for grad in theirs)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * largest)


#: Options that decide the loss of a batch: an objective that reads the option, and values that are
#: not the default.
LOSSES = {
    "objective": [(name, {}) for name in ("sft", "simpo+sft", "orpo+sft", "raddpo-paper")],
    "beta": [("raddpo", {"beta": 1.7}), ("simpo", {"beta": 0.6})],
    "gamma": [("simpo", {"gamma": 0.9})],
    "lam": [("orpo", {"lam": 0.7})],
    "beta_inside": [("raddpo", {"beta_inside": True, "beta": 1.7})],
    "mlsft": [("raddpo", {"mlsft": "top"}), ("dpo+sft", {"mlsft": "none", "beta": 1.0})],
    "contrast": [("raddpo", {"contrast": "pairwise"})],
    "tlgd": [("raddpo", {"tlgd": False, "beta": 2.0})],
    "lcp": [("raddpo", {"lcp": "any_pos", "beta": 2.0, "mlsft": "none", "steps": 6})],
    "positives": [("raddpo", {"positives": "flat"}), ("sft", {"positives": "flat"})],
    "item_share": [("sft", {"item_share": 0.6})],
    "rdrw": [("raddpo", {"rdrw": False, "rdrw_window": 4, "tlgd": False})],
    "rdrw_constant": [("raddpo", {"rdrw_weights": "constant", "rdrw_constant": 0.3})],
    "rdrw_weights": [("raddpo", {"rdrw_weights": "shuffled", "rdrw_window": 6})],
    "rdrw_window": [("raddpo", {"rdrw_window": 9, "rdrw_warmup_weight": 0.6})],
    "rdrw_warmup_weight": [("raddpo", {"rdrw_warmup_weight": 0.35, "rdrw_window": 20})],
    "rdrw_lambda": [("raddpo", {"rdrw_lambda": 3.0, "rdrw_window": 8})],
    "rdrw_update": [
        ("raddpo", {"rdrw_update": "frozen", "rdrw_window": 8, "steps": 4}),
        ("raddpo-paper", {"rdrw_update": "ema", "rdrw_window": 8, "steps": 4}),
    ],
    "rdrw_alpha": [
        (
            "raddpo",
            {
                "rdrw_update": "ema",
                "rdrw_alpha": 0.5,
                "rdrw_window": 8,
                "steps": 4,
                "rdrw_lambda": 5.0,
            },
        )
    ],
    "rdrw_state": [
        ("raddpo", {"rdrw_state": "last_code", "rdrw_window": 8, "rdrw_lambda": 4.0}),
        ("raddpo", {"rdrw_state": "item_vector", "rdrw_window": 8, "rdrw_update": "frozen"}),
    ],
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(*case, id=f"{option}-{case[0]}-{n}")
        for option, cases in LOSSES.items()
        for n, case in enumerate(cases)
    ],
)
def test_options_of_the_objective_reach_the_loss_by_hand(backbone, tmp_path, name, options):
    assert_by_hand(backbone, tmp_path, objective=name, **options)


@pytest.mark.parametrize("name", ["dpo", "sdpo+sft", "dmpo"])
def test_the_reference_is_the_model_as_it_came_in(backbone, tmp_path, name):
    assert_by_hand(backbone, tmp_path, objective=name, beta=0.8, positives="mean", steps=4)


def test_every_option_of_align_is_held():
    """A new option belongs into LOSSES above, or is one of a stage (test_train_wiring.py), or of
    reinforcement (test_train_reinforce.py, tests/align).
    """
    of_align = set(AlignConfig.model_fields) - set(OptimConfig.model_fields)
    assert of_align == {*LOSSES, "label", *REINFORCEMENT}
