"""The GRPO family equals loops written from the papers, and its facts by hand."""

import pytest
import reference_grpo as ref
import torch
from lists_rollouts import as_groups, one_group, random_groups, with_inclusion
from reference_align import eq1

from sidar.align import names, objective, register_objective
from sidar.align.grpo import advantages, unbiased_advantages
from sidar.config import GRPO_DEFAULTS, AlignConfig, SftConfig
from sidar.extensions import OBJECTIVES

SEEDS = range(4)
OF_ROLLOUTS = [name for name in names() if objective(name).needs_rollouts]
FAMILY = ("grpo", "drgrpo", "dapo", "gspo", "minionerec", "eggrpo")


def constants(name, **changes):
    """The constants of an objective as the reference takes them."""
    kl = {"kl": 1.0} if name == "eggrpo" else {}
    return {**GRPO_DEFAULTS[name], **kl, **changes}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_each_objective_equals_its_loop(seed, variable, name):
    for off_policy in (True, False):
        scores = random_groups(seed, variable=variable, off_policy=off_policy, experts=seed % 3)
        parts = objective(name).parts(scores, AlignConfig(), None)
        want = ref.grpo(as_groups(scores), **constants(name))
        assert parts.sft is None
        assert parts.contrast.item() == pytest.approx(want, abs=1e-6)


CHANGES = [
    {"ratio": "token"},
    {"ratio": "sequence"},
    {"ratio": "product"},
    {"normalise": "sequence"},
    {"normalise": "constant"},
    {"normalise": "token"},
    {"dynamic": True},
    {"normalise": "token", "dynamic": True},
    {"clip_low": 0.05, "clip_high": 0.1},
    {"clip_low": 0.0, "clip_high": 0.0},
    {"kl": 0.7},
]


@pytest.mark.parametrize("name", OF_ROLLOUTS)
@pytest.mark.parametrize("changes", CHANGES)
def test_the_options_reach_every_objective(name, changes):
    scores = random_groups(11, variable=True)
    scores.reward[0] = 0.5  # a group of one reward
    base = name.removesuffix("+sft")
    cfg = AlignConfig(grpo=changes, adagrpo={"gate": "open"})
    got = objective(name).parts(scores, cfg, None).contrast.item()
    loop = ref.recast if base == "recast" else ref.grpo
    assert got == pytest.approx(loop(as_groups(scores), **constants(base, **changes)), abs=1e-6)


@pytest.mark.parametrize("std", ["sample", "population", "none"])
@pytest.mark.parametrize("inclusion", ["weighted", "biased"])
def test_inclusion_weights(std, inclusion):
    scores = with_inclusion(random_groups(2))
    cfg = AlignConfig(grpo={"std": std, "inclusion": inclusion, "eps": 0.01})
    got = objective("grpo").parts(scores, cfg, None).contrast.item()
    options = constants("grpo", std=std, inclusion=inclusion, eps=0.01)
    assert got == pytest.approx(ref.grpo(as_groups(scores), **options), abs=1e-6)


@pytest.mark.parametrize("name", [f"{n}+sft" for n in (*FAMILY, "recast")])
def test_a_fixed_mixture_is_equation_1_and_c_times_the_surrogate(name):
    scores = random_groups(3)
    alone = objective(name.removesuffix("+sft")).parts(scores, AlignConfig(), None)
    for c in (0.1, 0.5, 1.0):
        parts = objective(name).parts(scores, AlignConfig(grpo={"mix": c}), None)
        assert parts.sft.item() == pytest.approx(eq1(as_groups(scores)), abs=1e-9)
        assert parts.contrast.item() == pytest.approx(c * alone.contrast.item(), abs=1e-12)


def test_advantages_by_hand():
    """Rewards 1, 0, 0, 0: mean ¼; deviation √3/4 of the population and ½ of the sample."""
    reward = torch.tensor([[1.0, 0, 0, 0, 9.0]], dtype=torch.float64)
    group = torch.tensor([[True, True, True, True, False]])
    a = advantages(reward, group, std="none")
    assert a.tolist() == [[0.75, -0.25, -0.25, -0.25, 0.0]]
    a = advantages(reward, group, std="population", eps=0.0)
    assert a[0, 0].item() == pytest.approx(3**0.5)
    assert a[0, 1].item() == pytest.approx(-1 / 3**0.5)
    a = advantages(reward, group, std="sample", eps=0.0)
    assert a[0, 0].item() == pytest.approx(1.5)
    assert advantages(reward, group, std="sample", eps=0.5)[0, 0].item() == pytest.approx(0.75)


def test_a_group_of_one_reward_teaches_nothing_and_is_counted():
    constant = one_group([0.1, 0.1, 0.1])  # .1 thrice is not exactly 3 · .1
    parts = objective("grpo").parts(constant, AlignConfig(grpo={"kl": 0.0}), None)
    assert parts.logs["group/zero_variance"] == 1
    (grad,) = torch.autograd.grad(parts.contrast, constant.logp)
    assert not grad.any()
    assert (
        objective("grpo")
        .parts(one_group([0.0, 1.0]), AlignConfig(), None)
        .logs["group/zero_variance"]
        == 0
    )


def test_dynamic_sampling_leaves_the_other_groups_their_weight():
    scores = random_groups(4, off_policy=False)
    scores.reward[0] = torch.linspace(0, 1, 10)
    scores.reward[1:] = 0.5
    plain, dynamic = (
        objective("grpo").parts(scores, AlignConfig(grpo={"dynamic": d, "kl": 0.0}), None)
        for d in (False, True)
    )
    count = len(scores.star)
    (a,) = torch.autograd.grad(plain.contrast, scores.logp)
    (b,) = torch.autograd.grad(dynamic.contrast, scores.logp)
    torch.testing.assert_close(b, count * a)
    assert a.any()
    assert plain.logs["group/zero_variance"] == pytest.approx((count - 1) / count)
    scores.reward[:] = 0.5
    nothing = objective("dapo").parts(scores, AlignConfig(), None).contrast
    assert nothing.item() == 0.0  # no group is left


def test_on_policy_the_gradient_is_the_advantage_over_the_number_of_steps():
    scores = one_group([1.0, 0.0, 0.0])
    loss = objective("grpo").parts(scores, AlignConfig(grpo={"kl": 0, "eps": 0}), None).contrast
    (grad,) = torch.autograd.grad(loss, scores.logp)
    want = torch.tensor([0.0, 2.0, -1.0, -1.0], dtype=torch.float64) / 3**0.5 / 3
    torch.testing.assert_close(grad[0, :, 0], -want)


def test_clip_higher_lets_a_likelier_ratio_through():
    """ρ = 1.25: GRPO clips at 1.2, DAPO not before 1.28; of a punished SID ρ = .75 is clipped."""
    scores = one_group([1.0, 0.0])
    scores.old_logp = scores.logp.detach().clone()
    scores.old_logp[0, 1, 0] -= torch.tensor(1.25).log()
    scores.old_logp[0, 2, 0] -= torch.tensor(0.75).log()
    cfg = AlignConfig(grpo={"kl": 0})
    grads, logs = {}, {}
    for name in ("grpo", "dapo", "minionerec"):
        parts = objective(name).parts(scores, cfg, None)
        grads[name] = torch.autograd.grad(parts.contrast, scores.logp)[0][0, :, 0]
        logs[name] = parts.logs["ratio/clipped"].item()
    assert logs == {"grpo": 1.0, "dapo": 0.5, "minionerec": 0.0}
    assert not grads["grpo"].any()
    assert grads["dapo"][1] < 0
    assert grads["dapo"][2] == 0
    assert grads["minionerec"][2] > 0


def test_k3_by_hand():
    """π = e⁻² against a reference of e⁻¹: e¹ − 1 − 1."""
    scores = one_group([1.0, 1.0])
    scores.ref_logp = scores.ref_logp + 1.0
    parts = objective("grpo").parts(scores, AlignConfig(grpo={"kl": 2.0}), None)
    want = torch.tensor(1.0).exp().item() - 2
    assert parts.logs["kl"].item() == pytest.approx(want, abs=1e-6)
    assert parts.contrast.item() == pytest.approx(2 * want, abs=1e-6)


def test_only_a_kl_term_asks_for_a_reference():
    assert {n for n in names() if objective(n).compares_with_reference(AlignConfig())} >= {
        "grpo",
        "minionerec+sft",
        "adagrpo",
        "eggrpo",
        "dpo",
    }
    for name in ("drgrpo", "dapo", "gspo+sft", "recast"):
        assert not objective(name).compares_with_reference(AlignConfig())
        assert objective(name).compares_with_reference(AlignConfig(grpo={"kl": 0.1}))
    for name in ("grpo", "adagrpo", "eggrpo"):
        assert not objective(name).compares_with_reference(AlignConfig(grpo={"kl": 0.0}))
    assert not objective("eggrpo").compares_with_reference(AlignConfig(eggrpo={"kl": "paper-eq10"}))
    scores = random_groups(0)
    scores.ref_logp = None
    with pytest.raises(ValueError, match=r"ref_logp .*align\.grpo\.kl: 0"):
        objective("grpo").loss(scores, AlignConfig())
    objective("dapo").loss(scores, AlignConfig())


def test_what_a_group_lacks_is_named():
    scores = random_groups(0)
    scores.reward = None
    with pytest.raises(ValueError, match=r"'gspo' learns from .*CandidateScores\.reward"):
        objective("gspo").loss(scores, AlignConfig())
    scores.rollout = None
    with pytest.raises(ValueError, match=r"CandidateScores\.rollout"):
        objective("recast").loss(scores, AlignConfig())


@pytest.mark.parametrize("name", OF_ROLLOUTS)
def test_resolved_options_are_those_that_the_objective_uses(name):
    scores = random_groups(5, experts=1)
    cfg = AlignConfig(objective=name, adagrpo={"gate": "open"})
    resolved = cfg.resolved(SftConfig())
    loss = objective(name).loss(scores, cfg)[0].item()
    assert objective(name).loss(scores, resolved)[0].item() == loss
    read = GRPO_DEFAULTS[name.removesuffix("+sft")]
    nulls = {key for key, value in AlignConfig().grpo if value is None}
    assert {key for key in nulls if getattr(resolved.grpo, key) is None} == nulls - set(read)


@pytest.mark.parametrize("name", OF_ROLLOUTS)
def test_weights_of_positives_act_in_equation_1_only(name):
    scores, plain = random_groups(3), random_groups(3)
    scores.weight = torch.where(scores.is_positive, 2.0, 1.0).double()
    cfg = AlignConfig(adagrpo={"gate": "open"})
    a, b = (objective(name).parts(s, cfg, None) for s in (scores, plain))
    assert a.contrast.item() == b.contrast.item()
    if a.sft is not None:
        assert a.sft.item() == pytest.approx(2 * b.sft.item())
    assert (a.sft is not None) == ("+sft" in name or name == "adagrpo")


def test_an_objective_of_ones_own_may_ask_for_rollouts(monkeypatch):
    monkeypatch.setattr(OBJECTIVES, "_parts", dict(OBJECTIVES._parts))

    @register_objective("best", needs_rollouts=True)
    def best(scores, options):
        return -(scores.logp.sum(-1) * scores.reward * scores.rollout).sum()

    for name in ("best", "best+sft"):
        assert objective(name).needs_rollouts
        assert not objective(name).compares_with_reference(AlignConfig())
    assert not objective("sft").needs_rollouts


def test_the_unbiased_form_is_the_exact_gradient_where_every_sid_is_drawn():
    """All of the support: q = 1, w = p, and the sum is Σ p (R − E R) ∇l."""
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    reward = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    a = unbiased_advantages(reward, torch.ones_like(p, dtype=torch.bool), p, p)
    torch.testing.assert_close(a, reward - (p * reward).sum())


def gumbel_gradients(logits, reward, size, draws, seed=0):
    """(draws, N) gradients of E[R] by the logits, from groups drawn by Gumbel top-k, weighted."""
    g = torch.Generator().manual_seed(seed)
    logp = logits.log_softmax(-1)
    uniform = torch.rand((draws, len(logits)), generator=g, dtype=torch.float64)
    perturbed = logp - (-uniform.log()).log()
    top, chosen = perturbed.topk(size + 1)
    line = top[:, size:]
    group = torch.zeros_like(perturbed, dtype=torch.bool).scatter(1, chosen[:, :size], True)
    inclusion = 1 - (-(logp - line).exp()).exp()
    p = logp.exp().expand_as(perturbed)
    w = torch.where(group, p / inclusion, 0.0)
    rewards = reward.expand_as(perturbed)
    right = w * unbiased_advantages(rewards, group, w, p)
    wrong = advantages(rewards, group, std="none") * group / size
    score = torch.eye(len(logits), dtype=torch.float64) - p[:1]  # ∇ log p_i by the logits
    return right @ score, wrong @ score


def test_with_inclusion_weights_the_expected_gradient_is_the_exact_one():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    reward = torch.tensor([0.0, 1.0, 0.2, 1.0, 0.5], dtype=torch.float64)
    p = logits.softmax(-1)
    exact = p * (reward - (p * reward).sum())
    right, wrong = gumbel_gradients(logits, reward, size=3, draws=60_000)
    error = right.std(0) / len(right) ** 0.5
    assert ((right.mean(0) - exact).abs() < 4 * error).all()
    biased = wrong.std(0) / len(wrong) ** 0.5
    assert ((wrong.mean(0) - exact).abs() > 10 * biased).any()  # rightly called biased


def test_repeated_sids_and_hits_are_counted():
    scores = one_group([1.0, 0.0, 0.0], star_written=True)
    scores.tokens = scores.tokens.clone()
    scores.tokens[0, 3] = scores.tokens[0, 2]
    scores.valid = torch.tensor([[True, True, True, False]])
    logs = objective("grpo").parts(scores, AlignConfig(), None).logs
    assert logs["group/unique"].item() == pytest.approx(3 / 4)
    assert logs["group/valid"].item() == pytest.approx(3 / 4)
    assert logs["group/hit"] == 1
    assert logs["group/reward_mean"].item() == pytest.approx(0.5)
    assert logs["group/reward_std"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
def test_recast_equals_its_loop(seed, variable):
    scores = random_groups(seed, variable=variable)
    scores.reward[0] = 0.0  # to be repaired
    for threshold in (0.0, 0.5):
        cfg = AlignConfig(recast={"threshold": threshold})
        parts = objective("recast").parts(scores, cfg, None)
        want = ref.recast(as_groups(scores), threshold=threshold, **constants("recast"))
        assert parts.contrast.item() == pytest.approx(want, abs=1e-6)
    assert parts.logs["recast/repaired"] > 0


def test_recast_repairs_a_group_without_reward_and_moves_two_sids_only():
    scores = one_group([0.0, 0.0, 0.0], logp=[-5.0, -3.0, -1.0, -2.0])
    parts = objective("recast").parts(scores, AlignConfig(), None)
    (grad,) = torch.autograd.grad(parts.contrast, scores.logp)
    # the ground truth up, the likeliest miss down
    assert grad[0, :, 0].tolist() == [-0.5, 0.0, 0.5, 0.0]
    assert parts.logs["recast/repaired"] == 1
    scores = one_group([0.0, 1.0, 1.0], logp=[-5.0, -3.0, -1.0, -2.0])
    parts = objective("recast").parts(scores, AlignConfig(), None)
    (grad,) = torch.autograd.grad(parts.contrast, scores.logp)
    assert grad[0, :, 0].tolist() == [0.0, 0.5, -0.5, 0.0]
    assert parts.logs["recast/repaired"] == 0


def test_another_positive_is_never_recasts_negative():
    scores = one_group([0.0, 0.0], logp=[-5.0, -1.0, -2.0])
    scores.is_positive = torch.tensor([[True, True, False]])
    (grad,) = torch.autograd.grad(
        objective("recast").parts(scores, AlignConfig(), None).contrast, scores.logp
    )
    assert grad[0, :, 0].tolist() == [-0.5, 0.0, 0.5]
    scores = one_group([0.0], logp=[-5.0, -1.0])
    scores.is_positive = torch.tensor([[True, True]])
    parts = objective("recast").parts(scores, AlignConfig(), None)
    assert parts.logs["recast/paired"] == 0
    assert parts.contrast.item() == 0
