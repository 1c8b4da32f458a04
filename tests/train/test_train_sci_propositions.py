"""The propositions of docs/methods/sci.md, checked in numbers.

The bound on routing is in tests/index.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_encoder import save_tiny_encoder

from sidar.config import DenseConfig, EmbedConfig
from sidar.index.dual_view import DualViewIndex, routed
from sidar.train.encoder.contrast import Views, tower_loss
from sidar.train.encoder.pairs import Pair
from sidar.train.encoder.towers import batch_loss, trainable

N, DIM, MARGIN = 40, 12, 0.2


def two(**changes):
    return DenseConfig(
        **{"towers": "two", "loss": "hinge", "margin": MARGIN, "precision": "fp32"} | changes
    )


def fitted(dense, seed=0, steps=3000):
    """Free unit vectors for the four views of N pairs, fitted until the loss is zero; and the loss
    that is left.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(N, DIM, generator=generator).requires_grad_() for _ in range(4)]
    hide = torch.zeros(N, N, dtype=torch.bool)
    optimizer = torch.optim.Adam(tables, lr=0.02)
    for _ in range(steps):
        loss = tower_loss(Views(*(F.normalize(table, dim=1) for table in tables)), hide, dense)
        if not loss:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Views(*(F.normalize(table, dim=1).detach() for table in tables)), float(loss.detach())


@pytest.fixture(scope="module")
def aligned():
    return fitted(two())


def scores(views):
    """S(f_q(Q), f_i(I)) and S(f_i(Q), f_q(I)), both (N, N)."""
    return views.queries @ views.items.T, views.queries_as_items @ views.items_as_queries.T


def test_at_zero_hinge_both_views_put_every_positive_a_margin_above_its_negatives(aligned):
    views, loss = aligned
    assert loss == 0
    off = ~torch.eye(N, dtype=torch.bool)
    straight, swapped = ((each.diagonal()[:, None] - each)[off] for each in scores(views))
    assert straight.min() >= MARGIN - 1e-6
    assert swapped.min() >= MARGIN - 1e-6
    assert torch.equal(straight > 0, swapped > 0)
    alone, rest = fitted(two(swap=0))
    assert rest == 0
    # L alone: chance
    assert ((scores(alone)[1].diagonal()[:, None] - scores(alone)[1])[off] < 0).float().mean() > 0.3


def test_the_swap_alone_does_not_bind_the_space_that_routing_uses(aligned):
    """Turn f_i(Q) and f_q(I) together: L and L_sym cannot tell, and f_q(Q) no longer finds the cell
    of f_q(I).
    """
    views, _ = aligned
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1)))[0]
    hide = torch.zeros(N, N, dtype=torch.bool)
    agreements = []
    for cross in (0.0, 1.0):
        near, _ = fitted(two(cross=1.0)) if cross else (views, 0)
        turned = Views(
            near.queries, near.items, near.queries_as_items @ turn, near.items_as_queries @ turn
        )
        before, after = (tower_loss(each, hide, two(cross=cross)).item() for each in (near, turned))
        assert (after == pytest.approx(before, abs=1e-6)) == (cross == 0)
        index = DualViewIndex.build(near.items.numpy(), near.items_as_queries.numpy(), lists=8)
        agreements.append(routed(index, near.queries.numpy(), np.arange(N), nprobe=1).mean())
    assert agreements[0] < 0.4  # 1/8 is chance
    assert agreements[1] > 0.6


def test_from_one_start_the_full_swap_moves_both_towers_alike(tmp_path):
    """λ = 1 and equal towers: equal gradients, so without dropout training never parts them (the
    siamese limit).
    """
    encoder = str(save_tiny_encoder(tmp_path / "tiny", seed=0))
    pairs = [
        Pair("red mug", 0, np.array([0])),
        Pair("blue pan", 1, np.array([1])),
        Pair("lid", 2, np.array([2])),
    ]
    texts = ["red steel mug", "pan, blue", "a lid for the pan"]
    towers = trainable(EmbedConfig(model=encoder, dtype="fp32"), "cpu", two())
    towers.model.eval()  # no dropout
    for loss in ("hinge", "infonce"):
        for swap, alike in ((1.0, True), (0.5, False), (0.0, False)):
            towers.model.zero_grad()
            batch_loss(towers, pairs, texts, two(loss=loss, swap=swap, margin=1.0)).backward()
            gradients = [
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                for model in towers.model.values()
            ]
            apart = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
            assert (apart < 1e-4) == alike, (loss, swap, apart)
