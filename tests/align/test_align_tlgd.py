"""TLGD (eq. 3–4): the value stays, and exactly the shared-prefix gradients of negatives go."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_align import as_dicts, random_lists
from reference_align import common_prefix

from sidar.align import SimilarityWindow, objective
from sidar.align.raddpo import plackett_luce, truncate_gradient
from sidar.align.terms import shared_prefix
from sidar.config import AlignConfig


@given(st.integers(0, 10_000), st.booleans())
@settings(deadline=None, max_examples=40)
def test_shared_prefix_is_the_longest_common_prefix(seed, variable):
    scores = random_lists(seed, variable=variable, codes=2)
    got, anyp = shared_prefix(scores), shared_prefix(scores, "any_pos")
    for b, item in enumerate(as_dicts(scores)):
        for c, tokens in enumerate(item["tokens"]):
            assert got[b, c] == common_prefix(item["tokens"][item["star"]], tokens)
            assert anyp[b, c] == max(
                common_prefix(item["tokens"][p], tokens) for p in item["positives"]
            )


@pytest.mark.parametrize("name", ["raddpo", "raddpo-paper"])
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("lcp", ["star", "any_pos"])
@pytest.mark.parametrize("seed", range(8))
def test_value_unchanged_and_exactly_the_shared_prefix_gradients_are_zero(
    name, variable, lcp, seed
):
    scores = random_lists(seed, prompts=10, variable=variable, codes=2)
    grads = {}
    for tlgd in (False, True):
        cfg = AlignConfig(tlgd=tlgd, lcp=lcp, mlsft="none")
        loss, _ = objective(name).loss(scores, cfg, SimilarityWindow(size=8))
        grads[tlgd] = (loss, torch.autograd.grad(loss, scores.logp)[0])
    assert grads[True][0].item() == grads[False][0].item()
    shared = shared_prefix(scores, lcp)
    inside = (torch.arange(scores.logp.shape[-1]) < shared[..., None]) & scores.is_negative[
        ..., None
    ]
    assert inside.any()
    assert (grads[True][1][inside] == 0).all()
    assert (grads[False][1][inside] != 0).all()
    # suffixes and y_w* untouched
    assert torch.equal(grads[True][1][~inside], grads[False][1][~inside])


@pytest.mark.parametrize("form", ["softmax", "printed"])
@pytest.mark.parametrize("tlgd", [False, True])
def test_net_coefficient_on_a_shared_prefix_token(form, tlgd):
    """Vanilla lists cancel to (1/L)(1 − Σ_{j∈S} q_j); TLGD leaves (1/L) · 1 (times
    the outer push).
    """
    length = 3
    g = torch.Generator().manual_seed(0)
    # one token: y_w* and negatives 0, 1 share it
    first = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    logp = -torch.rand(1, 4, length, generator=g, dtype=torch.float64) * 2
    logp[0, :3, 0] = 0
    shared = torch.tensor([[3, 1, 1, 0]])  # y_w*, two sharers, a stranger
    lp = logp + first * torch.tensor([[[1.0, 0, 0]] * 3 + [[0.0, 0, 0]]])
    used = truncate_gradient(lp, shared * torch.tensor([[0, 1, 1, 1]])) if tlgd else lp
    rewards = used.mean(-1)
    margins = (rewards[:, :1] - rewards)[:, 1:]
    margins.retain_grad()
    beta = 2.0
    loss = plackett_luce(margins, torch.ones(1, 3, dtype=torch.bool), beta=beta, form=form).sum()
    loss.backward()
    push = -margins.grad.sum()  # |∂L/∂r_w|
    q = -margins.grad[0] / push  # share of each negative
    want = (1 / length) * (1.0 if tlgd else 1 - (q[0] + q[1]))
    assert -first.grad.item() == pytest.approx((push * want).item(), abs=1e-6)


def test_one_pair_of_equal_length_cancels_exactly_without_tlgd():
    """In a pair there is no push–pull on a shared token: its coefficient is 0."""
    first = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    rest = torch.tensor([[[-0.3, -0.2], [-1.0, -0.4]]], dtype=torch.float64)
    rewards = torch.cat([first.expand(1, 2, 1), rest], -1).mean(-1)
    loss = plackett_luce(
        (rewards[:, :1] - rewards)[:, 1:], torch.ones(1, 1, dtype=torch.bool), beta=2.0
    )
    assert torch.autograd.grad(loss.sum(), first)[0].abs() < 1e-12


def test_variable_lengths_leave_a_residue_of_the_cancellation():
    """|y_w| = 2, |y_l| = 3: the shared token keeps 1/2 − 1/3 of the push."""
    first = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    r_w, r_l = (first - 0.2) / 2, (first - 0.9 - 0.4) / 3
    loss = plackett_luce((r_w - r_l).view(1, 1), torch.ones(1, 1, dtype=torch.bool), beta=1.0)
    push = 1 - torch.sigmoid(r_w - r_l)
    assert -torch.autograd.grad(loss.sum(), first)[0].item() == pytest.approx(
        (push * (1 / 2 - 1 / 3)).item()
    )


def test_an_identical_sid_has_no_gradient_at_all():
    scores = random_lists(0)
    negative = int(scores.is_negative[0].nonzero()[0])
    scores.tokens[0, negative] = scores.tokens[0, scores.star[0]]
    loss, _ = objective("raddpo").loss(scores, AlignConfig(rdrw=False, mlsft="none"))
    assert torch.autograd.grad(loss, scores.logp)[0][0, negative].abs().max() == 0
