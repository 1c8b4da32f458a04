"""Given weights of candidates, and RDRW's controls: constant and shuffled weights."""

import pytest
import reference_align as ref
import torch
from lists_align import as_dicts, one_list, random_lists, weighted

from sidar.align import SimilarityWindow, multi_label_sft, names, objective, take_rows
from sidar.align.raddpo import raddpo_contrast
from sidar.align.rdrw import shuffled, star_similarity
from sidar.config import AlignConfig

SEEDS = range(4)
FORMS = {"raddpo": "softmax", "raddpo-paper": "printed"}


def warm_window():
    window = SimilarityWindow(size=64)
    window.add(torch.rand(64, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8)
    return window


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variable", [False, True])
def test_each_positive_counts_with_its_weight_in_equation_1(seed, variable):
    scores = weighted(random_lists(seed, variable=variable), seed)
    scores.eos_logp = -torch.rand(scores.star.shape[0], scores.mask.shape[1], dtype=torch.float64)
    for positives in ("mean", "flat"):
        for which in ("all", "top"):
            want = ref.eq1(as_dicts(scores), positives, which, eos=scores.eos_logp.tolist())
            assert multi_label_sft(scores, positives, which).item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("contrast", ["global", "pairwise"])
@pytest.mark.parametrize("rdrw", ["off", "warm-up", "similarity", "constant"])
def test_raddpo_with_weights_equals_the_loop(seed, name, inside, contrast, rdrw):
    scores = weighted(random_lists(seed, variable=bool(seed % 2)), seed)
    window = {"warm-up": SimilarityWindow(size=64), "similarity": warm_window()}.get(rdrw)
    fixed = 0.6 if rdrw == "constant" else None
    quartiles = window.quartiles if window else None
    cfg = AlignConfig(
        beta=2.0,
        objective=name,
        beta_inside=inside,
        contrast=contrast,
        rdrw=rdrw != "off",
        rdrw_weights="constant" if fixed else "similarity",
        rdrw_constant=fixed or 0.75,
    )
    lists = as_dicts(scores)
    want = ref.raddpo(
        lists, form=FORMS[name], inside=inside, contrast=contrast, quartiles=quartiles, fixed=fixed
    )
    parts = objective(name).parts(scores, cfg, window)
    assert parts.contrast.item() == pytest.approx(want, abs=1e-6)
    assert parts.sft.item() == pytest.approx(ref.eq1(lists), abs=1e-6)
    without = [{k: v for k, v in item.items() if k != "weight"} for item in lists]
    plain = ref.raddpo(
        without,
        form=FORMS[name],
        inside=inside,
        contrast=contrast,
        quartiles=quartiles,
        fixed=fixed,
    )
    assert abs(plain - want) > 1e-5  # the weights matter in these lists


@pytest.mark.parametrize("name", ["dpo", "sdpo", "dmpo", "simpo", "orpo"])
def test_a_list_counts_with_the_weight_of_its_star_under_every_objective(name):
    scores = weighted(random_lists(2), 2, negatives=False)
    stars = scores.weight[torch.arange(len(scores.star)), scores.star]
    alone = []
    for b in range(len(scores.star)):
        one = take_rows(scores, torch.tensor([b]))
        one.weight = None
        alone.append(objective(name).parts(one, AlignConfig(objective=name), None))
    parts = objective(name).parts(scores, AlignConfig(objective=name), None)
    want = sum(float(v) * p.contrast.item() for v, p in zip(stars, alone, strict=True)) / len(stars)
    assert parts.contrast.item() == pytest.approx(want, abs=1e-9)
    if name == "orpo":  # its likelihood is that of y_w*
        want = sum(float(v) * p.sft.item() for v, p in zip(stars, alone, strict=True)) / len(stars)
        assert parts.sft.item() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("name", [n for n in names() if not objective(n).needs_rollouts])
def test_negative_weights_are_used_or_refused(name):
    scores = weighted(random_lists(1), 1, positives=False)
    cfg, plain = AlignConfig(objective=name), random_lists(1)
    if name.startswith("raddpo"):
        losses = [objective(name).loss(s, cfg, warm_window())[0].item() for s in (scores, plain)]
        assert abs(losses[0] - losses[1]) > 1e-3
    elif name == "sft":  # it looks at no negative
        assert (
            objective(name).loss(scores, cfg)[0].item()
            == objective(name).loss(plain, cfg)[0].item()
        )
    else:
        with pytest.raises(
            ValueError, match=rf"'{name.replace('+', '.')}' has no place .* negative_weights"
        ):
            objective(name).loss(scores, cfg)


@pytest.mark.parametrize("name", [n for n in names() if not objective(n).needs_rollouts])
def test_weights_of_one_change_no_bit(name):
    scores, plain = random_lists(3), random_lists(3)
    scores.weight = torch.ones(scores.mask.shape[:2])
    cfg = AlignConfig(objective=name)
    a, b = (objective(name).loss(s, cfg, warm_window())[0] for s in (scores, plain))
    assert a.item() == b.item()


def test_one_negative_of_half_weight_by_hand():
    """One negative at d = 0, β = 1: pull σ(log w) = w/(1+w) in the softmax reading, 1/(1+w) in
    print.
    """
    for name, pull in (("raddpo", 1 / 3), ("raddpo-paper", 2 / 3)):
        scores = one_list([-1.0], -1.0)
        scores.weight = torch.tensor([[2.0, 0.5]])
        cfg = AlignConfig(objective=name, rdrw=False, tlgd=False, beta=1.0)
        parts = objective(name).parts(scores, cfg, None)
        (grad,) = torch.autograd.grad(parts.contrast, scores.logp)
        # times the weight of y_w*
        assert grad[0, 1, 0].item() == pytest.approx(2.0 * pull, abs=1e-6)
        assert parts.sft.item() == pytest.approx(2.0, abs=1e-9)


def test_constant_weights_need_neither_window_nor_states():
    scores = random_lists(0)
    scores.hidden = None
    cfg = AlignConfig(beta=2.0, rdrw_weights="constant", rdrw_constant=0.75)
    contrast, logs = raddpo_contrast(scores, cfg, None, form="softmax")
    scores = random_lists(0)
    assert contrast.item() == pytest.approx(ref.raddpo(as_dicts(scores), fixed=0.75), abs=1e-6)
    assert logs["rdrw/weight_mean"].item() == 0.75
    off = AlignConfig(beta=2.0, rdrw_weights="constant", rdrw=False)  # rdrw: false stays w = 1
    assert raddpo_contrast(scores, off, None, form="softmax")[0].item() == pytest.approx(
        ref.raddpo(as_dicts(scores))
    )


def test_shuffled_weights_are_this_batchs_own_elsewhere():
    scores = weighted(random_lists(4, prompts=8), 4)
    cfg = AlignConfig(beta=2.0, rdrw_weights="shuffled")
    torch.manual_seed(7)
    order = torch.randperm(int(scores.is_negative.sum()))
    window = warm_window()
    sims = star_similarity(scores.hidden, scores.star)[scores.is_negative]
    moved = window.weigh(sims)[0][order]
    by_hand = random_lists(4, prompts=8)
    by_hand.weight = scores.weight.clone()
    by_hand.weight[scores.is_negative] *= moved  # eq. 6's numbers, permuted, as given weights
    torch.manual_seed(7)
    got, logs = raddpo_contrast(scores, cfg, window, form="softmax")
    want = ref.raddpo(as_dicts(by_hand))
    straight, straight_logs = raddpo_contrast(scores, AlignConfig(), warm_window(), form="softmax")
    assert got.item() == pytest.approx(want, abs=1e-6)
    assert abs(got.item() - straight.item()) > 1e-4
    assert logs["rdrw/weight_mean"] == straight_logs["rdrw/weight_mean"]
    other = warm_window()
    other.add(sims)
    assert window.state_dict() == other.state_dict()  # the anchors move as ever


def test_a_shuffle_is_a_permutation_that_follows_the_seed():
    values = torch.arange(50.0)
    torch.manual_seed(3)
    first = shuffled(values)
    torch.manual_seed(3)
    assert torch.equal(first, shuffled(values))
    assert first.sort().values.tolist() == values.tolist()
    assert first.tolist() != values.tolist()
    assert shuffled(torch.zeros(0)).tolist() == []
