"""EG-GRPO: what an expert in the group changes."""

import pytest
import torch
from lists_rollouts import one_group, random_groups

from sidar.align import objective
from sidar.align.grpo import advantages, zero_variance
from sidar.config import AlignConfig


def sparse_rewards(count, experts, seed=0, group=8, hit=0.02):
    """Rewards (count, group + experts) of groups that rarely hit: valid .1, exposed .5, clicked 1;
    the experts are clicked SIDs.
    """
    g = torch.Generator().manual_seed(seed)
    drawn = torch.rand((count, group), generator=g, dtype=torch.float64)
    sampled = torch.where(drawn < hit / 2, 1.0, torch.where(drawn < hit, 0.5, 0.1))
    return torch.cat([sampled, torch.ones((count, experts), dtype=torch.float64)], -1)


def test_one_expert_ends_groups_of_zero_variance():
    shares = {}
    for experts in (0, 1, 2):
        reward = sparse_rewards(2000, experts)
        group = torch.ones_like(reward, dtype=torch.bool)
        shares[experts] = zero_variance(reward, group).double().mean().item()
    assert shares[0] > 0.8  # 0.98^8 = .85
    assert shares[1] == shares[2] == 0.0


@pytest.mark.parametrize("std", ["sample", "population", "none"])
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_advantages_sum_to_0_and_an_expert_above_the_mean_is_pushed_up(std, experts):
    reward = sparse_rewards(500, experts, seed=1, hit=0.5)
    group = torch.ones_like(reward, dtype=torch.bool)
    a = advantages(reward, group, std=std)
    assert a.sum(-1).abs().max().item() < 1e-9
    above = reward > reward.mean(-1, keepdim=True) + 1e-12
    assert (a[:, 8:][above[:, 8:]] > 0).all()
    assert (a > 0).equal(above & ~zero_variance(reward, group)[:, None])


def test_one_expert_among_equals_is_the_squeezing_extreme():
    """A = √(G − 1) of the expert and −1/√(G − 1) of every sample; the log says so."""
    scores = one_group([0.1] * 8, star_reward=1.0, star_written=True)
    scores.expert = torch.zeros_like(scores.rollout)
    scores.expert[0, 0] = True
    cfg = AlignConfig(grpo={"kl": 0.0, "eps": 0.0})
    parts = objective("eggrpo").parts(scores, cfg, None)
    (grad,) = torch.autograd.grad(parts.contrast, scores.logp)
    want = torch.tensor([8**0.5] + [-(8**-0.5)] * 8, dtype=torch.float64)
    torch.testing.assert_close(grad[0, :, 0], -want / 9)
    assert parts.logs["expert/advantage"].item() == pytest.approx(8**0.5)
    assert parts.logs["expert/others_advantage"].item() == pytest.approx(-(8**-0.5))
    assert parts.logs["expert/squeezed"] == 1
    assert parts.logs["expert/pull"].item() == pytest.approx(1.0)
    assert parts.logs["expert/count"] == 1
    scores.reward[0, 1] = 0.5
    logs = objective("eggrpo").parts(scores, cfg, None).logs
    assert logs["expert/squeezed"] == 0
    assert logs["expert/pull"] < 1


def test_an_expert_is_not_counted_as_a_hit_of_the_policy():
    scores = one_group([0.1, 0.1], star_written=True)
    assert objective("eggrpo").parts(scores, AlignConfig(), None).logs["group/hit"] == 1
    scores.expert = scores.is_positive
    assert objective("eggrpo").parts(scores, AlignConfig(), None).logs["group/hit"] == 0


def test_without_experts_the_group_stays_plain():
    scores = random_groups(2)
    parts = objective("eggrpo").parts(scores, AlignConfig(), None)
    assert not any(name.startswith("expert/") for name in parts.logs)
    scores.expert = None
    assert objective("eggrpo").parts(scores, AlignConfig(), None).contrast == parts.contrast


def test_the_two_weights_of_the_kl_term():
    scores = random_groups(3, experts=2)
    losses = {}
    for kl in ("paper-sec4.1", "paper-eq10"):
        parts = objective("eggrpo").parts(scores, AlignConfig(eggrpo={"kl": kl}), None)
        losses[kl] = parts.contrast.item()
    for kl, given in (("paper-sec4.1", 1.0), ("paper-eq10", 0.0)):
        cfg = AlignConfig(eggrpo={"kl": kl}, grpo={"kl": given})
        assert objective("eggrpo").parts(scores, cfg, None).contrast.item() == losses[kl]
    half = AlignConfig(grpo={"kl": 0.5})
    got = objective("eggrpo").parts(scores, half, None).contrast.item()
    assert got == pytest.approx(sum(losses.values()) / 2, abs=1e-9)


def test_an_expert_that_no_policy_wrote_has_a_ratio_of_1():
    scores = random_groups(4, experts=1)
    other = random_groups(4, experts=1)
    scores.old_logp[scores.expert] = float("nan")
    other.old_logp[other.expert] = other.logp.detach()[other.expert]
    a, b = (objective("eggrpo").parts(s, AlignConfig(), None).contrast for s in (scores, other))
    assert a.item() == b.item()
    (grad,) = torch.autograd.grad(a, scores.logp)
    assert torch.isfinite(grad).all()
    assert grad[scores.expert].any()
