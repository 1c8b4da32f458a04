"""AdaGRPO's gate: its loop, its facts, and what it must never do."""

import math

import pytest
import reference_grpo as ref
import torch
from lists_rollouts import as_groups, one_group, random_groups
from reference_align import eq1

from sidar.align import multi_label_sft, objective
from sidar.align.adagrpo import gate, opened
from sidar.config import GRPO_DEFAULTS, AdaGrpoConfig, AlignConfig

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "options", [{}, {"tau": 0.5, "rho": 0.8}, {"perturbation_rank": "outside"}]
)
def test_the_gate_equals_its_loop(seed, options):
    scores = random_groups(seed, experts=seed % 2, variable=seed % 3 == 0, prompts=12, codes=2)
    scores.perturbation_reward = (3 * scores.perturbation_reward).round() / 6
    got = gate(scores, AdaGrpoConfig(**options))
    arguments = [options.get(k, v) for k, v in (("tau", 0.25), ("rho", 0.5))]
    wording = options.get("perturbation_rank", "inside")
    want = [ref.gate(item, *arguments, wording) for item in as_groups(scores)]
    assert got.difficult.tolist() == [d for d, _, _ in want]
    assert got.discriminable.tolist() == [d for _, d, _ in want]
    assert got.soft.tolist() == pytest.approx([s for _, _, s in want], abs=1e-6)


@pytest.mark.parametrize("choice", ["both", "difficulty", "discriminability", "soft", "open"])
def test_the_loss_is_the_anchor_and_the_gated_surrogate(choice):
    scores = random_groups(6, prompts=10)
    options = {"gate": choice, "eta": 0.7, "tau": 0.5, "rho": 0.9}
    parts = objective("adagrpo").parts(scores, AlignConfig(adagrpo=options), None)
    lists = as_groups(scores)
    seen = [ref.gate(item, 0.5, 0.9) for item in lists]
    alphas = {
        "both": [float(a and b) for a, b, _ in seen],
        "difficulty": [float(a) for a, _, _ in seen],
        "discriminability": [float(b) for _, b, _ in seen],
        "soft": [s for _, _, s in seen],
        "open": [1.0] * len(seen),
    }[choice]
    want = 0.7 * ref.grpo(lists, **GRPO_DEFAULTS["adagrpo"], alphas=alphas)
    assert sum(alphas) > 0
    assert parts.sft.item() == pytest.approx(eq1(lists), abs=1e-6)
    assert parts.contrast.item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_closed_gate_leaves_exactly_the_gradient_of_equation_1(dtype):
    scores = random_groups(1, dtype=dtype)
    scores.eos_logp = torch.full(scores.rollout.shape, -0.3, dtype=dtype)
    cfg = AlignConfig(adagrpo={"gate": "closed"})
    loss, logs = objective("adagrpo").loss(scores, cfg)
    anchor = multi_label_sft(scores)
    (ours,) = torch.autograd.grad(loss, scores.logp)
    (wanted,) = torch.autograd.grad(anchor, scores.logp)
    assert torch.equal(ours, wanted)  # not one bit
    assert loss.item() == anchor.item()
    assert logs["gate/open"] == 0
    opening, _ = objective("adagrpo").loss(scores, AlignConfig(adagrpo={"gate": "open"}))
    assert not torch.equal(torch.autograd.grad(opening, scores.logp)[0], wanted)


def test_closed_prompts_of_a_batch_keep_their_gradient_too():
    scores = random_groups(6, prompts=10)
    cfg = AlignConfig(adagrpo={"tau": 0.5, "rho": 0.9})
    closed = opened(gate(scores, cfg.adagrpo), cfg.adagrpo) == 0
    assert closed.any()
    assert not closed.all()
    (ours,) = torch.autograd.grad(objective("adagrpo").loss(scores, cfg)[0], scores.logp)
    (wanted,) = torch.autograd.grad(multi_label_sft(scores), scores.logp)
    assert torch.equal(ours[closed], wanted[closed])
    assert not torch.equal(ours[~closed], wanted[~closed])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", [lambda r: 5 * r - 2, torch.exp, lambda r: r**3])
def test_a_monotone_transform_of_the_reward_moves_no_gate(seed, change):
    scores, other = random_groups(seed, prompts=12), random_groups(seed, prompts=12)
    other.reward = change(other.reward)
    other.perturbation_reward = change(other.perturbation_reward)
    options = AdaGrpoConfig(tau=0.5, rho=0.9)
    a, b = gate(scores, options), gate(other, options)
    assert torch.equal(a.difficult, b.difficult)
    assert torch.equal(a.discriminable, b.discriminable)
    assert torch.equal(a.soft, b.soft)


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_a_constant_reward_never_opens_the_gate(tau, size):
    for written in (True, False):
        scores = one_group([0.5] * size, star_reward=0.5, star_written=written)
        for count in (0, 1, 4):
            scores.perturbation_reward = torch.full((1, count), 0.5, dtype=torch.float64)
            got = gate(scores, AdaGrpoConfig(tau=tau, rho=1.0))
            assert not got.discriminable.any()
            assert not got.soft.any()


def random_gates(count, *, written, seed=0):
    """Gates of random rewards: K = 16 with GT where it was written, m = 4."""
    g = torch.Generator().manual_seed(seed)
    one = one_group([0.0] * (15 if written else 16), star_written=written)
    repeated = {
        name: value.detach().expand(count, *value.shape[1:])
        for name, value in vars(one).items()
        if value is not None
    }
    scores = type(one)(**repeated)
    scores.reward = torch.rand(scores.reward.shape, generator=g, dtype=torch.float64)
    scores.perturbation_reward = torch.rand((count, 4), generator=g, dtype=torch.float64)
    return gate(scores, AdaGrpoConfig())


def test_a_random_reward_opens_the_gate_at_the_rate_that_was_computed():
    """(4/21) C(11,4)/C(20,4) = 1.30 % where GT is absent, (4/20) C(10,4)/C(19,4) = 1.08 % where it
    is present.
    """
    absent = 4 / 21 * math.comb(11, 4) / math.comb(20, 4)
    present = 4 / 20 * math.comb(10, 4) / math.comb(19, 4)
    assert (round(100 * absent, 2), round(100 * present, 2)) == (1.30, 1.08)
    for rate, written in ((absent, False), (present, True)):
        assert ref.open_probability(16, 4, written=written) == pytest.approx(rate, abs=1e-12)
        count = 60_000
        seen = random_gates(count, written=written).discriminable.double().mean().item()
        assert abs(seen - rate) < 4 * math.sqrt(rate * (1 - rate) / count)


def test_a_truth_that_was_not_written_is_difficult():
    scores = one_group([0.1, 0.2, 0.3], star_written=False, perturbations=[0.0])
    got = gate(scores, AdaGrpoConfig())
    assert got.policy_rank.item() == 4  # K + 1
    assert got.difficult.all()
    written = one_group(
        [0.1, 0.2, 0.3], star_written=True, perturbations=[0.0], logp=[-1.0, -2.0, -3.0, -4.0]
    )
    assert not gate(written, AdaGrpoConfig()).difficult.any()


def test_an_open_gate_by_hand():
    """Four rollouts, ⌈τK⌉ = 1: R puts GT first and both foreign SIDs last, of ranks 1–7."""
    scores = one_group([0.5, 0.6, 0.7, 0.4], star_reward=0.9, perturbations=[0.1, 0.2])
    got = gate(scores, AdaGrpoConfig())
    assert (got.policy_rank.item(), got.reward_rank.item()) == (5, 1)
    assert (got.difficult & got.discriminable).all()
    scores.perturbation_reward[0, 0] = 0.65  # rank 3 of 7, not among the last ½
    assert not gate(scores, AdaGrpoConfig()).discriminable.any()
    # literally: all outside of the bottom
    outside = AdaGrpoConfig(perturbation_rank="outside")
    assert not gate(scores, outside).discriminable.any()
    scores.perturbation_reward[0] = torch.tensor([0.75, 0.8])  # ranks 3 and 2
    assert gate(scores, outside).discriminable.all()


def test_a_gate_without_foreign_sids_stays_shut_and_a_missing_field_is_named():
    scores = one_group([0.5, 0.6], star_reward=0.9, perturbations=[math.nan, math.nan])
    assert not gate(scores, AdaGrpoConfig()).discriminable.any()
    scores.perturbation_reward = None
    with pytest.raises(ValueError, match="perturbation_reward"):
        gate(scores, AdaGrpoConfig())


def test_invalid_sids_experts_and_other_positives_are_no_rivals():
    scores = one_group([0.95, 0.2, 0.96, 0.97, 0.1], star_reward=0.9, perturbations=[0.0])
    assert not gate(scores, AdaGrpoConfig()).discriminable.any()
    scores.valid = torch.tensor([[True, False, True, True, True, True]])
    scores.expert = torch.tensor([[False, False, False, True, False, False]])
    scores.is_positive = torch.tensor([[True, False, False, False, True, False]])
    got = gate(scores, AdaGrpoConfig())
    assert got.rivals.tolist() == [[False, False, True, False, False, True]]
    assert got.reward_rank.item() == 1
    assert got.discriminable.all()


def test_other_positives_are_never_pushed_down():
    scores = one_group([1.0, 0.0, 0.5], star_reward=0.9, perturbations=[0.0])
    scores.is_positive = torch.tensor([[True, False, True, False]])  # the second is worth 0
    grads = []
    for spare in (None, False):
        cfg = AlignConfig(adagrpo={"gate": "open"}, grpo={"spare_positives": spare, "kl": 0})
        contrast = objective("adagrpo").parts(scores, cfg, None).contrast
        grads.append(torch.autograd.grad(contrast, scores.logp)[0][0, :, 0])
    assert grads[0][2] == 0
    assert grads[1][2] > 0
    assert torch.equal(grads[0][[0, 1, 3]], grads[1][[0, 1, 3]])


def test_a_random_gate_opens_at_its_rate_and_repeats_under_a_seed():
    found = random_gates(4000, written=False)
    options = AdaGrpoConfig(gate="random", open_rate=0.3)
    drawn = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn.append(opened(found, options))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert abs(drawn[0].mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def test_the_strata_are_logged():
    scores = random_groups(6, prompts=12)
    cfg = AlignConfig(adagrpo={"tau": 0.5, "rho": 0.9})
    _, logs = objective("adagrpo").loss(scores, cfg)
    seen = [ref.gate(item, 0.5, 0.9) for item in as_groups(scores)]
    names = ("difficult_discriminable", "difficult_only", "discriminable_only", "neither")
    want = [(True, True), (True, False), (False, True), (False, False)]
    for name, which in zip(names, want, strict=True):
        chosen = [i for i, (a, b, _) in enumerate(seen) if (a, b) == which]
        assert logs[f"stratum/{name}/share"].item() == pytest.approx(len(chosen) / len(seen))
        assert (f"stratum/{name}/nll" in logs) == bool(chosen)
        if chosen:
            lists = as_groups(scores)
            nll = sum(-sum(lists[i]["logp"][lists[i]["star"]]) for i in chosen) / len(chosen)
            assert logs[f"stratum/{name}/nll"].item() == pytest.approx(nll, abs=1e-6)
    assert logs["gate/open"] == logs["stratum/difficult_discriminable/share"]
