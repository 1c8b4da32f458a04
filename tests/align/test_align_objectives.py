"""Every objective equals a loop written straight from its paper, to 1e-6 (on fp64 inputs, and fp32
to 1e-5).
"""

import pytest
import reference_align as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_align import as_dicts, random_lists

from sidar.align import SimilarityWindow, multi_label_sft, names, objective
from sidar.config import OBJECTIVE_DEFAULTS, AlignConfig, SftConfig

SEEDS = range(6)
#: Objectives of logged lists; those of rollouts have tests of their own.
OF_LISTS = [name for name in names() if not objective(name).needs_rollouts]


def warm_window(seed=0):
    """A window that is past its warm-up, with the quartiles of 64 known similarities."""
    window = SimilarityWindow(size=64)
    window.add(torch.rand(64, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8)
    return window


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
def test_sft_is_equation_1(seed, variable):
    scores = random_lists(seed, variable=variable)
    for positives in ("mean", "flat"):
        for which in ("all", "top"):
            got = multi_label_sft(scores, positives, which)
            assert got.item() == pytest.approx(
                ref.eq1(as_dicts(scores), positives, which), abs=1e-6
            )


def test_sft_adds_the_training_only_eos_term():
    scores = random_lists(1)
    scores.eos_logp = -torch.rand(scores.star.shape[0], scores.mask.shape[1], dtype=torch.float64)
    want = ref.eq1(as_dicts(scores), eos=scores.eos_logp.tolist())
    assert multi_label_sft(scores).item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("form", ["softmax", "printed"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("contrast", ["global", "pairwise"])
@pytest.mark.parametrize("warm", [False, True])
def test_raddpo_is_equations_2_to_7(seed, variable, form, inside, contrast, warm):
    scores = random_lists(seed, variable=variable)
    window = warm_window() if warm else SimilarityWindow(size=64)
    want = ref.raddpo(
        as_dicts(scores),
        form=form,
        inside=inside,
        contrast=contrast,
        quartiles=window.quartiles,
        beta=2.0,
    )
    cfg = AlignConfig(beta=2.0, beta_inside=inside, contrast=contrast)
    parts = objective("raddpo" if form == "softmax" else "raddpo-paper").parts(scores, cfg, window)
    assert parts.contrast.item() == pytest.approx(want, abs=1e-6)
    assert parts.sft.item() == pytest.approx(ref.eq1(as_dicts(scores)), abs=1e-6)
    assert parts.total.item() == pytest.approx(want + ref.eq1(as_dicts(scores)), abs=1e-6)


BASELINES = {
    "dpo": ref.dpo,
    "sdpo": ref.sdpo,
    "dmpo": ref.dmpo,
    "simpo": ref.simpo,
    "orpo": ref.orpo,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_equal_their_papers_with_default_constants(seed, variable, name):
    scores = random_lists(seed, variable=variable)
    lists = as_dicts(scores)
    loss, logs = objective(name).loss(scores, AlignConfig())
    assert loss.item() == pytest.approx(BASELINES[name](lists), abs=1e-6)
    assert logs["loss"] == loss.detach()
    plus, _ = objective(f"{name}+sft").loss(scores, AlignConfig())
    assert plus.item() == pytest.approx(BASELINES[name](lists) + ref.eq1(lists), abs=1e-6)


def test_constants_of_the_config_reach_the_baselines():
    scores = random_lists(3)
    lists = as_dicts(scores)
    cfg = AlignConfig(beta=0.7, gamma=0.5, lam=0.4)
    assert objective("dpo").loss(scores, cfg)[0].item() == pytest.approx(
        ref.dpo(lists, 0.7), abs=1e-6
    )
    assert objective("sdpo").loss(scores, cfg)[0].item() == pytest.approx(
        ref.sdpo(lists, 0.7), abs=1e-6
    )
    assert objective("dmpo").loss(scores, cfg)[0].item() == pytest.approx(
        ref.dmpo(lists, 0.7), abs=1e-6
    )
    assert objective("simpo").loss(scores, cfg)[0].item() == pytest.approx(
        ref.simpo(lists, 0.7, 0.5), abs=1e-6
    )
    assert objective("orpo").loss(scores, cfg)[0].item() == pytest.approx(
        ref.orpo(lists, 0.4), abs=1e-6
    )


@pytest.mark.parametrize("name", OF_LISTS)
def test_resolved_options_are_those_that_the_objective_uses(name):
    """Close the gap between what is recorded and what is trained with: every entry of the table is
    read.
    """
    scores = random_lists(3)
    cfg = AlignConfig(objective=name, rdrw=False)
    resolved = cfg.resolved(SftConfig())
    loss = objective(name).loss(scores, cfg)[0].item()
    assert objective(name).loss(scores, resolved)[0].item() == loss
    read = OBJECTIVE_DEFAULTS.get(name.removesuffix("+sft"), {})
    for option in ("beta", "gamma", "lam"):
        other = resolved.model_copy(update={option: 3.0})
        assert (objective(name).loss(scores, other)[0].item() != loss) == (option in read), option
        assert (getattr(resolved, option) is None) == (option not in read)


@pytest.mark.parametrize("name", OF_LISTS)
def test_lists_without_negatives_train_sft_only_and_gradients_stay_finite(name):
    scores = random_lists(5, dtype=torch.float32)  # its last list has none
    loss, _ = objective(name).loss(scores, AlignConfig(), SimilarityWindow(size=8))
    (grad,) = torch.autograd.grad(loss, scores.logp)
    assert torch.isfinite(grad).all()
    wanted = objective("sft").loss(scores, AlignConfig())[0]
    (sft_grad,) = torch.autograd.grad(wanted, scores.logp)
    if "sft" in name or "raddpo" in name:
        assert torch.equal(grad[-1], sft_grad[-1]) or name.startswith("orpo")
    elif name != "orpo":  # ORPO carries its own likelihood of y_w*
        assert grad[-1].abs().max() == 0


def test_fp32_agrees_with_fp64_and_bf16_is_lifted():
    wide, narrow = random_lists(7), random_lists(7)
    narrow.logp = narrow.logp.detach().float().requires_grad_()
    a = objective("raddpo").loss(wide, AlignConfig(rdrw=False))[0]
    b = objective("raddpo").loss(narrow, AlignConfig(rdrw=False))[0]
    assert b.dtype == torch.float32
    assert a.item() == pytest.approx(b.item(), abs=1e-5)
    narrow.logp = narrow.logp.detach().bfloat16()
    assert objective("simpo").loss(narrow, AlignConfig())[0].dtype == torch.float32


def test_orpo_stays_finite_where_the_model_is_certain():
    scores = random_lists(2, dtype=torch.float32)
    scores.logp = torch.zeros_like(scores.logp).requires_grad_()
    loss, _ = objective("orpo").loss(scores, AlignConfig())
    (grad,) = torch.autograd.grad(loss, scores.logp)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_the_order_of_candidates_does_not_matter(seed):
    scores = random_lists(seed, variable=True)
    order = torch.randperm(scores.mask.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = random_lists(seed, variable=True)
    for name in (
        "logp",
        "mask",
        "tokens",
        "is_positive",
        "is_negative",
        "tier",
        "hidden",
        "ref_logp",
    ):
        setattr(shuffled, name, getattr(scores, name)[:, order])
    shuffled.star = torch.argsort(order)[scores.star]
    for name in ("raddpo", "raddpo-paper", "sdpo", "simpo+sft", "orpo"):
        a, b = (
            objective(name).loss(s, AlignConfig(), warm_window())[0] for s in (scores, shuffled)
        )
        assert a.item() == pytest.approx(b.item(), abs=1e-9)


def test_mlsft_switches():
    scores = random_lists(4)
    lists = as_dicts(scores)
    parts = objective("raddpo").parts(scores, AlignConfig(mlsft="top", rdrw=False), None)
    assert parts.sft.item() == pytest.approx(ref.eq1(lists, which="top"), abs=1e-6)
    parts = objective("raddpo").parts(scores, AlignConfig(mlsft="none", rdrw=False), None)
    assert parts.sft is None
    assert parts.total is parts.contrast
    with pytest.raises(ValueError, match="mlsft is none"):
        objective("sft").loss(scores, AlignConfig(mlsft="none"))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="raddpo-paper"):
        objective("rad")
    scores = random_lists(0)
    with pytest.raises(ValueError, match="SimilarityWindow"):
        objective("raddpo").loss(scores, AlignConfig())
    scores.ref_logp = None
    with pytest.raises(ValueError, match="reference"):
        objective("dpo").loss(scores, AlignConfig())
    assert {n for n in names() if objective(n).needs_reference} == {
        f"{n}{p}" for n in ("dpo", "sdpo", "dmpo") for p in ("", "+sft")
    }
