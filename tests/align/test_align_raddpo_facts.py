"""The numbers worked by hand for the two readings of eq. 2/7 (docs/methods/raddpo.md)."""

import math

import pytest
import torch
from lists_align import one_list

from sidar.align import objective
from sidar.align.raddpo import plackett_luce
from sidar.config import AlignConfig

EXAMPLE = (-1.0, (-0.5, -2.0, -4.0))


def shares(form, reward_star, rewards, weights=None, beta=1.0):
    """(loss, push on y_w, pull on each negative): |∂L/∂r|, for one list."""
    r_w = torch.tensor([reward_star], dtype=torch.float64, requires_grad=True)
    r = torch.tensor([rewards], dtype=torch.float64, requires_grad=True)
    w = None if weights is None else torch.tensor([weights], dtype=torch.float64)
    loss = plackett_luce(
        r_w[:, None] - r, torch.ones_like(r, dtype=torch.bool), w, beta=beta, form=form
    )
    g_w, g = torch.autograd.grad(loss.sum(), (r_w, r))
    return loss.item(), -g_w.item(), g[0].tolist()


@pytest.mark.parametrize(
    ("form", "loss", "push"), [("printed", 0.288, 0.25), ("softmax", 1.386, 0.75)]
)
def test_equal_scores_with_three_negatives(form, loss, push):
    got, up, down = shares(form, 0.0, (0.0, 0.0, 0.0))
    assert got == pytest.approx(loss, abs=5e-4)
    assert up == pytest.approx(push)
    assert sum(down) == pytest.approx(push)


@pytest.mark.parametrize("form", ["printed", "softmax"])
def test_one_negative_pushes_by_half(form):
    assert shares(form, 0.0, (0.0,))[1] == pytest.approx(0.5)


def test_printed_pushes_the_beaten_negative_and_softmax_the_hard_one():
    _, up, down = shares("printed", *EXAMPLE)
    assert up == pytest.approx(0.041, abs=6e-4)
    assert down == pytest.approx([0.001, 0.005, 0.035], abs=6e-4)
    _, up, down = shares("softmax", *EXAMPLE)
    assert up == pytest.approx(0.674, abs=6e-4)
    assert down == pytest.approx([0.538, 0.120, 0.016], abs=6e-4)


def test_printed_is_content_although_a_negative_outranks_the_star():
    loss, _, _ = shares("printed", *EXAMPLE)
    assert loss == pytest.approx(0.042, abs=6e-4)
    assert EXAMPLE[1][0] > EXAMPLE[0]


def test_half_weight_raises_the_penalty_in_print_and_lowers_it_under_softmax():
    assert shares("printed", 0.0, (0.0,), (0.5,))[2][0] == pytest.approx(2 / 3)
    assert shares("softmax", 0.0, (0.0,), (0.5,))[2][0] == pytest.approx(1 / 3)
    # all ambiguous
    half = (0.5, 0.5, 0.5)
    assert shares("printed", *EXAMPLE, half)[1] == pytest.approx(0.079, abs=6e-4)
    assert shares("softmax", *EXAMPLE, half)[1] == pytest.approx(0.508, abs=6e-4)
    # one of several
    one = (0.5, 1.0, 1.0)
    assert shares("printed", *EXAMPLE)[2][0] == pytest.approx(0.0011, abs=6e-5)
    assert shares("printed", *EXAMPLE, one)[2][0] == pytest.approx(0.0005, abs=6e-5)
    assert shares("softmax", *EXAMPLE, one)[2][0] == pytest.approx(0.368, abs=6e-4)


def test_the_half_weight_of_print_is_a_simpo_margin_of_log_two():
    """P with n = 1: w = ½ adds −β log 2 inside the sigmoid, which is SimPO's γ = β log 2."""
    scores = one_list((-1.5,), -1.0)
    simpo, _ = objective("simpo").loss(scores, AlignConfig(beta=2.0, gamma=math.log(2)))
    got = plackett_luce(
        torch.tensor([[0.5]]),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[0.5]]),
        beta=2.0,
        form="printed",
    )
    assert got.item() == pytest.approx(simpo.item(), abs=1e-6)


def test_softmax_brackets_print_around_the_margins():
    """z_S ≤ min d ≤ max d ≤ z_P."""
    d = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    keep = torch.ones_like(d, dtype=torch.bool)

    def z(form):  # invert loss = −log σ(z)
        loss = plackett_luce(d, keep, beta=1.0, form=form)
        return (-(torch.expm1(loss)).log()).item()

    assert z("softmax") <= -1.0
    assert z("printed") >= 2.0


def test_sigmoid_of_softmax_is_an_n_plus_one_way_choice():
    loss, _, _ = shares("softmax", *EXAMPLE)
    r_w, r = EXAMPLE
    assert math.exp(-loss) == pytest.approx(math.exp(r_w) / (math.exp(r_w) + sum(map(math.exp, r))))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 5.0])
def test_all_four_forms_coincide_at_one_negative(beta):
    d = torch.tensor([[0.7]], dtype=torch.float64)
    keep = torch.ones_like(d, dtype=torch.bool)
    values = {
        plackett_luce(d, keep, beta=beta, form=form, beta_inside=inside).item()
        for form in ("printed", "softmax")
        for inside in (False, True)
    }
    assert max(values) - min(values) < 1e-12


def test_beta_inside_differs_from_outside_with_several_negatives():
    d = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    keep = torch.ones_like(d, dtype=torch.bool)
    outside = plackett_luce(d, keep, beta=2.0)
    inside = plackett_luce(d, keep, beta=2.0, beta_inside=True)
    assert abs(outside.item() - inside.item()) > 0.05


@pytest.mark.parametrize(
    ("form", "n", "push"), [("printed", 3, 0.20), ("printed", 10, 0.02), ("softmax", 3, 1.80)]
)
def test_print_at_beta_two_is_nearly_dead_on_long_lists(form, n, push):
    assert shares(form, 0.0, (0.0,) * n, beta=2.0)[1] == pytest.approx(push, abs=6e-3)


@pytest.mark.parametrize(("name", "beta"), [("raddpo", 0.5), ("raddpo-paper", 2.0)])
def test_each_reading_has_its_own_beta_unless_one_is_given(name, beta):
    scores = one_list(EXAMPLE[1], EXAMPLE[0])
    own, said, other = (
        objective(name).parts(scores, AlignConfig(rdrw=False, beta=b), None).contrast.item()
        for b in (None, beta, 1.0)
    )
    assert own == said != other
