"""Residual codebooks that follow moving averages: assignment, steps by hand and by twin, starts and
restarts.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_rqvae
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.sid.autoencoders.quantiser import ResidualQuantiser


def quantiser(
    books: list[np.ndarray], counts: list[np.ndarray] | None = None, decay: float = 0.9
) -> ResidualQuantiser:
    made = ResidualQuantiser([len(book) for book in books], books[0].shape[1], decay, "fp32")
    for level, book in enumerate(books):
        count = np.ones(len(book)) if counts is None else counts[level]
        made.part("book", level).copy_(torch.from_numpy(book))
        made.part("count", level).copy_(torch.from_numpy(count))
        made.part("total", level).copy_(torch.from_numpy(book * np.asarray(count)[:, None]))
    return made


def draw(seed: int, n: int, sizes: list[int], dim: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, dim)).astype(np.float32)
    return z, [
        rng.standard_normal((k, dim)).astype(np.float32) / (level + 1)
        for level, k in enumerate(sizes)
    ]


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_assignment_is_its_slow_twin(n: int, sizes: list[int], dim: int, seed: int) -> None:
    z, books = draw(seed, n, sizes, dim)
    rng = np.random.default_rng(seed)
    first = rng.integers(-1, sizes[0], n)
    used = int(rng.integers(1, sizes[0] + 1))
    made = quantiser(books)
    for given_first, among in ((None, sizes[0]), (first, used)):
        made.used.fill_(among)
        codes, parts = made.assign(
            torch.from_numpy(z), None if given_first is None else torch.from_numpy(first)
        )
        want, sums = reference_rqvae.assign(z, books, given_first, among)
        np.testing.assert_array_equal(codes.numpy(), want)
        np.testing.assert_allclose(parts.sum(1).numpy(), sums, atol=1e-5)
        np.testing.assert_allclose(made.restore(codes).numpy(), sums, atol=1e-5)


def test_a_moving_average_by_hand() -> None:
    made = quantiser([np.array([[0.0], [10.0]], np.float32)], [np.array([4.0, 2.0])], decay=0.75)
    z = torch.tensor([[1.0], [3.0], [12.0]])
    codes, parts = made.assign(z)
    assert codes.tolist() == [[0], [0], [1]]
    made.follow(z, codes, parts)
    # N = .75·(4, 2) + .25·(2, 1);  M = .75·(0, 20) + .25·(4, 12)
    assert made.part("count", 0).tolist() == [3.5, 1.75]
    np.testing.assert_allclose(made.books[0].numpy(), [[1 / 3.5], [18 / 1.75]], rtol=1e-6)


@given(st.integers(1, 12), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_moving_averages_are_their_slow_twin(n: int, sizes: list[int], seed: int) -> None:
    z, books = draw(seed, n, sizes, 3)
    counts = [np.random.default_rng([seed, level]).random(k) + 0.5 for level, k in enumerate(sizes)]
    made = quantiser(books, counts)
    codes, parts = made.assign(torch.from_numpy(z))
    made.follow(torch.from_numpy(z), codes, parts)
    want_books, want_counts = reference_rqvae.follow(z, codes.numpy(), books, counts, 0.9)
    for level in range(len(sizes)):
        np.testing.assert_allclose(made.books[level].numpy(), want_books[level], atol=1e-4)
        np.testing.assert_allclose(made.part("count", level).numpy(), want_counts[level], rtol=1e-5)


def test_a_code_that_nobody_uses_keeps_its_place() -> None:
    made = quantiser([np.array([[0.0], [9.0]], np.float32)], [np.array([1.0, 0.0])])
    for _ in range(3):
        z = torch.tensor([[1.0]])
        made.follow(z, *made.assign(z))
    assert made.books[0][1].tolist() == [9.0]


def test_each_level_starts_as_k_means_of_what_is_left() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(
        (np.repeat(np.eye(4) * 8, 40, axis=0) + rng.choice([-1, 1], (160, 4))).astype(np.float32)
    )
    made = ResidualQuantiser((4, 6), 4, 0.9)
    made.start(z, None, 40, torch.Generator().manual_seed(0))
    codes, parts = made.assign(z)
    assert len(set(codes[:, 0].tolist())) == 4
    assert (z - parts[:, 0]).square().sum(1).mean() < 5  # the four corners
    assert (z - parts.sum(1)).square().sum(1).mean() < (z - parts[:, 0]).square().sum(1).mean()
    assert made.part("count", 0).sum() == pytest.approx(40)
    np.testing.assert_allclose(
        made.part("total", 0), made.books[0] * made.part("count", 0)[:, None], rtol=1e-6
    )


def test_a_guided_level_starts_at_the_means_of_its_categories() -> None:
    z = torch.tensor([[0.0], [2.0], [10.0], [14.0], [50.0], [60.0]])
    first = torch.tensor([0, 0, 1, 1, -1, -1])
    made = ResidualQuantiser((5, 2), 1, 0.9)
    made.reserved = 2
    made.used.fill_(4)
    made.start(z, first, 6, torch.Generator().manual_seed(0))
    assert made.books[0][:2, 0].tolist() == [1.0, 12.0]
    assert sorted(made.books[0][2:4, 0].tolist()) == [50.0, 60.0]
    codes, _ = made.assign(z, first)
    assert codes[:4, 0].tolist() == [0, 0, 1, 1]
    assert (codes[4:, 0] >= 2).all()
    # an unknown category may take a category's code
    assert made.assign(torch.tensor([[11.0]]))[0][0, 0] == 1
    assert made.assign(torch.tensor([[1e3]]))[0][0, 0] < 4  # code 4 is not in use


def test_dead_codes_come_back_where_the_error_is() -> None:
    books = [np.array([[0.0, 0.0], [99.0, 0.0], [99.0, 9.0]], np.float32)]
    made = quantiser(books, [np.array([10.0, 0.0, 0.2])])
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 8.0], [0.0, 0.0]])
    codes, parts = made.assign(z)
    assert made.dead(0, 0.05).tolist() == [1]
    assert made.dead(0, 0.1).tolist() == [1, 2]
    done = made.restart(z, codes, parts, 0.1, torch.Generator().manual_seed(0), None)
    assert done == 2
    # half-way between a residual and its code, never at error 0
    half = {(0.5, 0.0), (-0.5, 0.0), (0.0, 4.0)}
    assert {tuple(place) for place in made.books[0][1:].tolist()} <= half
    np.testing.assert_allclose(made.part("count", 0)[1:], 10.2 / 3)
    np.testing.assert_allclose(made.part("total", 0)[1:], made.books[0][1:] * 10.2 / 3, rtol=1e-6)
    codes, parts = made.assign(z)
    assert made.restart(z, codes, parts, 0.1, torch.Generator().manual_seed(0), None) == 0


def test_codes_of_categories_are_never_restarted() -> None:
    made = quantiser(
        [np.array([[0.0], [9.0], [5.0], [7.0]], np.float32)], [np.array([1.0, 0.0, 0.0, 0.0])]
    )
    made.reserved = 2
    made.used.fill_(3)
    assert made.dead(0, 0.5).tolist() == [2]
    z, known = torch.tensor([[4.0], [1.0]]), torch.tensor([True, False])
    codes, parts = made.assign(z, torch.tensor([1, -1]))
    assert made.restart(z, codes, parts, 0.5, torch.Generator().manual_seed(0), known) == 1
    # from the item without a category, although the other's error is larger
    assert made.books[0][2].tolist() == [0.5]
    assert made.use(0.5)["use_1"] == 1.0


def test_nothing_to_restart_from_where_there_is_no_error() -> None:
    made = quantiser([np.array([[1.0], [1.0]], np.float32)], [np.array([5.0, 0.0])])
    z = torch.ones(3, 1)
    codes, parts = made.assign(z)
    assert made.restart(z, codes, parts, 0.5, torch.Generator().manual_seed(0), None) == 0


def test_use_and_perplexity_by_hand() -> None:
    made = quantiser([np.zeros((4, 1), np.float32)], [np.array([2.0, 2.0, 0.0, 0.0])])
    assert made.use(0.05) == pytest.approx({"use_1": 0.5, "perplexity_1": 2.0})
