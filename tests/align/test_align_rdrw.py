"""RDRW (eq. 5–6): the weight function, its anchors, and the state that survives a restart."""

import json

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_align import random_lists
from reference_align import cosine, eq6

from sidar.align import SimilarityWindow, objective
from sidar.align.rdrw import gather_ragged, similarity_weight, star_similarity
from sidar.config import AlignConfig


@pytest.mark.parametrize(
    ("half", "lower", "upper"), [(0.05, 0.82, 0.68), (0.1, 0.88, 0.62), (0.2, 0.96, 0.54)]
)
def test_the_jumps_of_equation_6(half, lower, upper):
    q = (0.5 - half, 0.5, 0.5 + half)
    eps = 1e-7
    sims = torch.tensor([q[0] - eps, q[0] + eps, 0.5, q[2] - eps, q[2] + eps], dtype=torch.float64)
    assert similarity_weight(sims, q).tolist() == pytest.approx(
        [1.0, lower, 0.75, upper, 0.5], abs=6e-3
    )


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=64), st.integers(0, 100))
@settings(deadline=None)
def test_weights_equal_the_paper_fall_with_similarity_and_stay_in_range(values, seed):
    q = tuple(np.quantile(values, (0.25, 0.5, 0.75)))
    sims = (
        (torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1)
        .sort()
        .values
    )
    weights = similarity_weight(sims, q)
    assert weights.tolist() == pytest.approx([eq6(float(s), *q) for s in sims], abs=1e-9)
    assert (weights.diff() <= 1e-12).all()
    assert weights.min() >= 0.5
    assert weights.max() <= 1.0


def test_coinciding_quartiles_still_tell_lower_from_higher():
    window = SimilarityWindow(size=8)
    window.add(torch.tensor([0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.95]))
    assert window.quartiles == pytest.approx((0.9, 0.9, 0.9))
    sims = torch.tensor([-1.0, 0.1, 0.89999, 0.9 - 2e-7, 0.9, 0.9 + 2e-7, 0.90001, 0.95, 1.0])
    assert window.weigh(sims)[0].tolist() == pytest.approx(
        [1, 1, 1, 0.75, 0.75, 0.75, 0.5, 0.5, 0.5], abs=1e-5
    )


def test_quartiles_within_rounding_of_one_another_coincide():
    q = (0.5, 0.5 + 2e-7, 0.5 + 9e-7)
    sims = torch.tensor([0.4, 0.5 - 5e-7, 0.5, 0.5 + 1.5e-6, 0.6], dtype=torch.float64)
    weights = similarity_weight(sims, q)
    assert weights.tolist() == pytest.approx([1, 0.75, 0.75, 0.75, 0.5], abs=1e-5)
    assert weights.tolist() == pytest.approx([eq6(float(s), *q) for s in sims], abs=1e-12)


def test_only_all_three_quartiles_together_coincide():
    weights = similarity_weight(
        torch.tensor([0.4, 0.5, 0.6, 0.7], dtype=torch.float64), (0.5, 0.5, 0.6)
    )
    # by hand: 0.5 + 0.5 / (1 + exp(12 * 0.1)) = 0.5 + 0.5 / 4.3201 = 0.6157
    assert weights.tolist() == pytest.approx([1, 0.75, 0.6157, 0.5], abs=1e-4)


def test_a_quarter_of_the_pairs_gets_each_extreme():
    sims = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    window = SimilarityWindow(size=4096)
    window.add(sims)
    weights, _ = window.weigh(sims)
    assert (weights == 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (weights == 0.5).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_similarity_is_the_cosine_with_the_star_and_carries_no_gradient():
    scores = random_lists(0)
    hidden = scores.hidden.requires_grad_()
    sims = star_similarity(hidden, scores.star)
    assert not sims.requires_grad
    for b, c in ((0, 0), (1, 2), (2, 3)):
        want = cosine(hidden[b, scores.star[b]].tolist(), hidden[b, c].tolist())
        assert sims[b, c].item() == pytest.approx(want, abs=1e-9)
    loss, _ = objective("raddpo").loss(scores, AlignConfig(), SimilarityWindow(size=4))
    assert torch.autograd.grad(loss, hidden, allow_unused=True)[0] is None


def test_states_without_direction_keep_full_weight_and_leave_the_window_alone():
    hidden = torch.ones(1, 3, 4)
    hidden[0, 1] = 0
    hidden[0, 2] = float("nan")
    sims = star_similarity(hidden, torch.zeros(1, dtype=torch.long))[0]
    window = SimilarityWindow(size=2)
    window.add(torch.tensor([0.1, 0.2]))
    weights, _ = window.weigh(sims[1:])
    assert weights.tolist() == [1.0, 1.0]
    window.add(sims)  # only the star's own 1.0 counts
    assert window.state_dict()["values"] == pytest.approx([0.2, 1.0])


def test_warm_up_weight_then_anchors_from_before_the_batch():
    window = SimilarityWindow(size=4, warmup_weight=0.75)
    first = torch.tensor([0.0, 0.1, 0.2, 0.3])
    assert window.weigh(first)[0].tolist() == [0.75] * 4
    window.add(first)
    assert window.quartiles == pytest.approx(tuple(np.quantile(first.numpy(), (0.25, 0.5, 0.75))))
    scores = random_lists(1)
    anchors = window.quartiles
    _, logs = objective("raddpo").loss(scores, AlignConfig(), window)
    # not the new ones
    assert (logs["rdrw/q25"].item(), logs["rdrw/q50"].item()) == pytest.approx(anchors[:2])
    assert window.quartiles != anchors


@pytest.mark.parametrize("update", ["window", "ema", "frozen"])
def test_updates_follow_their_rule(update):
    rng = np.random.default_rng(0)
    window = SimilarityWindow(size=100, update=update, alpha=0.1)
    batches = [rng.normal(0.1 * i, 0.2, size=30).astype(np.float32) for i in range(8)]
    for batch in batches:
        window.add(torch.from_numpy(batch))
    stream = np.concatenate(batches).astype(np.float64)
    if update == "window":
        want = np.quantile(stream[-100:], (0.25, 0.5, 0.75))
    else:
        want = np.quantile(stream[:100], (0.25, 0.5, 0.75))
        # the batch that fills the first 100 (the fourth) anchors, the later ones move
        if update == "ema":
            for batch in batches[4:]:
                want = 0.9 * want + 0.1 * np.quantile(batch.astype(np.float64), (0.25, 0.5, 0.75))
    assert window.quartiles == pytest.approx(tuple(want))
    assert window.seen == 240


@pytest.mark.parametrize("update", ["window", "ema", "frozen"])
@pytest.mark.parametrize("batches", [1, 3, 9])
def test_state_survives_json_exactly(update, batches):
    def feed(window, start, stop):
        for i in range(start, stop):
            window.add(torch.randn(7, generator=torch.Generator().manual_seed(i)))

    whole = SimilarityWindow(size=32, update=update)
    feed(whole, 0, 12)
    before = SimilarityWindow(size=32, update=update)
    feed(before, 0, batches)
    after = SimilarityWindow(size=32, update=update)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    feed(after, batches, 12)
    assert after.state_dict() == whole.state_dict()


def test_a_state_of_another_window_is_refused():
    with pytest.raises(ValueError, match="rdrw_window"):
        SimilarityWindow(size=8).load_state_dict(SimilarityWindow(size=4).state_dict())


def _rank(rank, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    window = SimilarityWindow(size=5)
    window.add(torch.arange(2 + rank, dtype=torch.float32) + 10 * rank)  # [0, 1] and [10, 11, 12]
    gathered = gather_ragged(torch.full((rank,), 7.0))  # rank 0 brings nothing
    (torch.save([window.state_dict(), gathered.tolist()], f"{folder}/{rank}.pt"))
    dist.destroy_process_group()


def test_all_ranks_keep_the_same_anchors(tmp_path):
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert states[0] == states[1]
    assert states[0][0]["values"] == [0.0, 1.0, 10.0, 11.0, 12.0]
    assert states[0][1] == [7.0]
