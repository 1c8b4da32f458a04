"""SCI's towers: the losses by hand and against slow loops, the symmetry of the swap, and what
training leaves.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_encoder import save_tiny_encoder
from toy_leaks import leaked, switch_off, write_typed_sets
from toy_stages import config

from sidar.config import DenseConfig, EmbedConfig
from sidar.data import build, open_dataset, toy
from sidar.embed import TowerEmbedder, item_texts, load_embedder, load_items
from sidar.embed.encoder import load_sentence_transformer
from sidar.evaluate.views import modality_gap
from sidar.train import train_dense
from sidar.train.encoder import towers as towers_module
from sidar.train.encoder.contrast import (
    Views,
    coral,
    hinge_loss,
    in_batch_loss,
    mean_gap,
    pair_loss,
    tower_loss,
)
from sidar.train.encoder.dense import tune
from sidar.train.encoder.pairs import LogPairs, Pair
from sidar.train.encoder.towers import batch_loss, tower_views, train_last, trainable


def unit(seed, rows=7, dim=5):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def some_hidden(seed, rows=7):
    hide = torch.rand(rows, rows, generator=torch.Generator().manual_seed(seed)) < 0.3
    return hide.fill_diagonal_(False)


def two(**changes):
    return DenseConfig(**{"towers": "two", "precision": "fp32"} | changes)


# --- the losses

NOTHING = torch.zeros(2, 2, dtype=torch.bool)
QUERIES, ITEMS = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines [[1, .6], [0, .8]]


def test_the_hinge_by_hand():
    # .6 and 0 are .4 and .8 below their positives
    assert hinge_loss(QUERIES, ITEMS, NOTHING, 0.2).item() == 0
    one_way = (0.5 - 1 + 0.6 + 0) / 2  # δ − 1 + .6 = .1, and δ − .8 + 0 < 0
    assert hinge_loss(QUERIES, ITEMS, NOTHING, 0.5).item() == pytest.approx(one_way, abs=1e-6)
    # item 0: δ − 1 + 0 < 0; item 1 against query 0: δ − .8 + .6 = .3
    back = (0 + 0.5 - 0.8 + 0.6) / 2
    both = hinge_loss(QUERIES, ITEMS, NOTHING, 0.5, symmetric=True).item()
    assert both == pytest.approx((one_way + back) / 2, abs=1e-6)
    # the only violating negative of query 0 answers it too
    hide = torch.tensor([[False, True], [False, False]])
    assert hinge_loss(QUERIES, ITEMS, hide, 0.5).item() == 0
    everything = torch.tensor([[False, True], [True, False]])
    # no negative at all
    assert hinge_loss(QUERIES, ITEMS, everything, 0.5, symmetric=True).item() == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_hinge_equals_a_slow_loop(symmetric):
    queries, items, hide = unit(0), unit(1), some_hidden(2)

    def direction(a, b, hide):
        terms = [
            max(0.0, 0.3 - float(a[i] @ b[i]) + float(a[i] @ b[j]))
            for i in range(7)
            for j in range(7)
            if j != i and not hide[i, j]
        ]
        return sum(terms) / len(terms)

    want = direction(queries, items, hide)
    if symmetric:
        want = (want + direction(items, queries, hide.T)) / 2
    assert hinge_loss(queries, items, hide, 0.3, symmetric).item() == pytest.approx(want, rel=1e-5)


def test_the_config_chooses_the_loss():
    queries, items, hide = unit(0), unit(1), some_hidden(2)
    found = pair_loss(queries, items, hide, two(temperature=0.1, symmetric=True))
    assert torch.equal(found, in_batch_loss(queries, items, hide, 0.1, True))
    found = pair_loss(queries, items, hide, two(loss="hinge", margin=0.3, symmetric=True))
    assert torch.equal(found, hinge_loss(queries, items, hide, 0.3, True))


@pytest.mark.parametrize("loss", ["infonce", "hinge"])
def test_the_terms_of_the_grid_add_up(loss):
    q_q, i_i, i_q, q_i = (unit(seed) for seed in range(4))
    hide, views = some_hidden(5), Views(q_q, i_i, i_q, q_i)

    def term(queries, items):
        return pair_loss(queries, items, hide, two(loss=loss)).item()

    straight, swapped, cross = term(q_q, i_i), term(i_q, q_i), term(q_q, q_i) + term(i_q, i_i)
    for swap, gamma in ((0, 0), (1, 0), (0.3, 0), (1, 1), (0, 0.5)):
        found = tower_loss(views, hide, two(loss=loss, swap=swap, cross=gamma)).item()
        assert found == pytest.approx(straight + swap * swapped + gamma * cross, rel=1e-5)
    assert tower_loss(Views(q_q, i_i), hide, two(loss=loss, swap=0)).item() == pytest.approx(
        straight, rel=1e-6
    )


def test_moments_by_hand():
    queries, items = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert mean_gap(queries, items).item() == pytest.approx(0.5)  # (.5, .5) against (1, 0)
    # [[.5, −.5], [−.5, .5]] against zeros
    assert coral(queries, items).item() == pytest.approx(1.0)
    # a rotation has other covariances
    assert coral(unit(0), unit(0) @ torch.linalg.qr(unit(1, 5))[0]).item() > 0.01
    views = Views(queries, items)
    straight = tower_loss(views, NOTHING, two(swap=0)).item()
    for match, apart in (("mean", 0.5), ("coral", 1.0)):
        found = tower_loss(views, NOTHING, two(swap=0, match=match, match_weight=3.0)).item()
        assert found == pytest.approx(straight + 3 * apart, rel=1e-6)


# --- the towers

PAIRS = [
    Pair("red mug", 0, np.array([0])),
    Pair("blue mug", 1, np.array([1, 2])),
    Pair("mug", 2, np.array([0, 2])),
    Pair("towel", 3, np.array([3])),
]
TEXTS = ["red steel mug", "blue mug", "mug with lid, blue", "a towel for the kitchen"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return [str(save_tiny_encoder(folder / str(seed), seed=seed)) for seed in (0, 1)]


def model_of(path):
    return load_sentence_transformer(path, "cpu").eval()


def pair_of(encoders):
    """Two towers that differ, in one order and in the other."""
    first, second = (model_of(path) for path in encoders)
    return TowerEmbedder(first, second, precision="fp32"), TowerEmbedder(
        second, first, precision="fp32"
    )


@pytest.mark.parametrize("loss", ["infonce", "hinge"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_with_the_swap_the_loss_is_the_same_after_exchanging_the_towers(encoders, loss, symmetric):
    towers, exchanged = pair_of(encoders)
    dense = two(loss=loss, symmetric=symmetric, margin=0.5)
    found = batch_loss(towers, PAIRS, TEXTS, dense)
    assert batch_loss(exchanged, PAIRS, TEXTS, dense).item() == pytest.approx(
        found.item(), rel=1e-5
    )
    uneven = dense.model_copy(update={"swap": 0.5})
    apart = (
        batch_loss(exchanged, PAIRS, TEXTS, uneven).item()
        - batch_loss(towers, PAIRS, TEXTS, uneven).item()
    )
    assert abs(apart) > 1e-4

    def gradients(embedder):
        for model in embedder.model.values():
            model.zero_grad()
        batch_loss(embedder, PAIRS, TEXTS, dense).backward()
        return [p.grad.clone() for p in towers.model.parameters() if p.grad is not None]

    for a, b in zip(gradients(towers), gradients(exchanged), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_exchanging_towers_and_roles_keeps_the_loss_of_both_directions():
    """Queries become items and items queries as well: then the loss must be the mean of both
    directions.
    """
    q_q, i_i, i_q, q_i = (unit(seed) for seed in range(4))
    hide = some_hidden(5)
    straight = tower_loss(Views(q_q, i_i, i_q, q_i), hide, two(symmetric=True))
    roles = tower_loss(Views(i_i, q_q, q_i, i_q), hide.T, two(symmetric=True))
    assert roles.item() == pytest.approx(straight.item(), rel=1e-5)
    one_way = [
        tower_loss(v, h, two()).item()
        for v, h in ((Views(q_q, i_i, i_q, q_i), hide), (Views(i_i, q_q, q_i, i_q), hide.T))
    ]
    assert one_way[0] != pytest.approx(one_way[1], rel=1e-3)


def test_a_step_reads_what_the_terms_ask_for_with_the_prefixes(encoders, monkeypatch):
    towers, _ = pair_of(encoders)
    read = []
    monkeypatch.setattr(
        towers_module,
        "encode",
        lambda model, texts, tokens, dense: read.append((model, texts, tokens)) or unit(0, 1),
    )
    f_q, f_i = towers.queries.encoder.model, towers.items.encoder.model
    straight = [(f_q, ["[Q] a"], 24), (f_i, ["[I] b"], 48)]
    tower_views(towers, ["a"], ["b"], two(swap=0))
    assert read == straight
    for changes in ({}, {"swap": 0, "cross": 0.5}):
        read.clear()
        tower_views(towers, ["a"], ["b"], two(**changes))
        assert read == [*straight, (f_i, ["[Q] a"], 24), (f_q, ["[I] b"], 48)]


def test_two_towers_start_as_one_encoder_and_the_swap_adds_no_parameter(encoders):
    cfg = EmbedConfig(model=encoders[0], dtype="fp32")
    single = trainable(cfg, "cpu", DenseConfig())

    def count(embedder):
        return sum(
            parameter.numel()
            for parameter in embedder.model.parameters()
            if parameter.requires_grad
        )

    for changes in ({"swap": 0}, {}, {"cross": 1}, {"match": "coral"}):
        towers = trainable(cfg, "cpu", two(**changes))
        assert count(towers) == 2 * count(single)
    texts = ["red mug", "a towel"]
    np.testing.assert_array_equal(
        towers.queries.encode(texts), towers.queries_as_items.encode(texts)
    )
    with torch.no_grad():
        next(towers.queries.encoder.model.parameters()).add_(1)  # two encoders, not one twice
    assert not np.allclose(towers.queries.encode(texts), towers.queries_as_items.encode(texts))


def test_with_equal_towers_the_swap_doubles_the_loss(encoders):
    """The limit case of docs/methods/sci.md: tied towers are aligned already, so the swap says
    nothing new.
    """
    towers = trainable(EmbedConfig(model=encoders[0], dtype="fp32"), "cpu", two())
    towers.model.eval()
    alone = batch_loss(towers, PAIRS, TEXTS, two(swap=0)).item()
    assert batch_loss(towers, PAIRS, TEXTS, two()).item() == pytest.approx(2 * alone, rel=1e-5)


def test_only_the_last_layers_are_trained(encoders):
    model = model_of(encoders[0])
    train_last(model, 1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".layer.1." in name for name in trained)
    with pytest.raises(ValueError, match=r"dense\.train_layers is 3, but the encoder has 2 layers"):
        train_last(model_of(encoders[0]), 3)
    head = torch.nn.Linear(16, 16)
    stack = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)])), head
    )
    train_last(stack, 2)
    assert [p.requires_grad for p in stack.parameters()] == [
        False,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
    ]


# --- the stage


def run_config(shop, encoder, **dense):
    cfg = config(shop / "inputs", sft={})
    cfg.embed = EmbedConfig(model=encoder, dtype="fp32")
    cfg.dense = two(**{"steps": 24, "batch_size": 16, "lr": 3e-3, "validate_every": 12} | dense)
    return cfg


@pytest.fixture(scope="module")
def tuned(shop, encoders, tmp_path_factory):
    torch.set_num_threads(1)
    out, cfg = tmp_path_factory.mktemp("tuned"), run_config(shop, encoders[0])
    return SimpleNamespace(cfg=cfg, out=out, report=train_dense(cfg, shop / "data", out))


def test_towers_learn_and_leave_a_folder_that_opens_with_both_views(tuned, shop):
    shapes = tuned.report["shapes"]
    assert shapes["best"]["ndcg@10"] > shapes["untuned"]["ndcg@10"] + 0.1
    towers = load_embedder(EmbedConfig(model=str(tuned.out / "model"), dtype="fp32"), "cpu")
    assert isinstance(towers, TowerEmbedder)
    texts = item_texts(open_dataset(shop / "data").catalogue, tuned.cfg.embed.fields)
    np.testing.assert_allclose(load_items(tuned.out), towers.items.encode(texts), atol=1e-6)
    np.testing.assert_allclose(
        load_items(tuned.out, "query"), towers.items_as_queries.encode(texts), atol=1e-6
    )
    assert not np.allclose(load_items(tuned.out), load_items(tuned.out, "query"), atol=1e-3)
    assert (
        json.loads((tuned.out / "embedder.json").read_text())["fingerprint"] == towers.fingerprint
    )
    assert shapes["parameters"] == sum(p.numel() for p in towers.model.parameters())
    assert "two towers from" in tuned.report["summary"]
    assert shapes["views"]["gap"] == pytest.approx(
        modality_gap(load_items(tuned.out), load_items(tuned.out, "query"))
    )
    assert 0 < shapes["views"]["cka"] < 1
    assert 0 < shapes["views"]["find_themselves"] <= 1


def test_the_same_seed_gives_the_same_towers(tuned, shop, tmp_path):
    train_dense(tuned.cfg, shop / "data", tmp_path)
    for name in ("query", "item"):
        again, first = (
            load_sentence_transformer(str(f / "model" / name), "cpu") for f in (tmp_path, tuned.out)
        )
        assert all(
            torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True)
        )


@pytest.mark.parametrize("hold_out", [True, False])
def test_no_tower_reads_an_evaluation_query_in_training(encoders, tmp_path, monkeypatch, hold_out):
    """Queries of judged and simulated sets that shoppers typed too; with nothing held out, the
    towers do read some.
    """
    toy.write_inputs(tmp_path / "inputs")
    if not hold_out:
        switch_off(monkeypatch)
    build(
        config(tmp_path / "inputs", evaluate={"sets": write_typed_sets(tmp_path / "inputs")}),
        tmp_path / "data",
    )
    data, read = open_dataset(tmp_path / "data"), set()
    real = towers_module.encode

    def listening(model, texts, max_tokens, dense):
        read.update(texts)
        return real(model, texts, max_tokens, dense)

    monkeypatch.setattr(towers_module, "encode", listening)
    cfg = run_config(tmp_path, encoders[0], steps=40, mixture={"query": 1.0}, validate_every=40)
    train_dense(cfg, tmp_path / "data", tmp_path / "dense", valid_sets=[])
    queries = {text.removeprefix("[Q] ") for text in read if text.startswith("[Q] ")}
    assert len(queries) > 20
    assert queries <= {request.prompt.query.strip() for request in data.requests("train")}
    found = leaked(queries, data)
    assert not found if hold_out else len(found) > 5


def test_frozen_layers_stay_as_they_were(shop, encoders, tmp_path):
    train_dense(
        run_config(shop, encoders[0], steps=4, train_layers=1),
        shop / "data",
        tmp_path,
        valid_sets=[],
    )
    before = dict(load_sentence_transformer(encoders[0], "cpu").named_parameters())
    for name in ("query", "item"):
        after = dict(
            load_sentence_transformer(str(tmp_path / "model" / name), "cpu").named_parameters()
        )
        moved = {key for key in after if not torch.equal(after[key], before[key])}
        assert moved
        assert all(".layer.1." in key for key in moved)


def test_towers_are_trained_on_from_their_folder(tuned, encoders):
    cfg = EmbedConfig(model=str(tuned.out / "model"), dtype="fp32")
    towers = trainable(cfg, "cpu", two())
    assert towers.fingerprint == load_embedder(cfg, "cpu").fingerprint
    pairs = LogPairs(open_table(), np.ones(4, bool), 0)
    done = tune(towers, {"query": pairs}, TEXTS, two(steps=2, batch_size=2, mixture={"query": 1.0}))
    assert np.isfinite(done.loss)


def open_table():
    import pyarrow as pa

    positives = pa.array([[0], [1], [2], [3]], pa.list_(pa.int32()))
    return pa.table(
        {"query": pa.array(["red mug", "blue mug", "lid", "towel"]), "positives": positives}
    )


# --- bad input


def test_what_cannot_be_two_towers_says_so(tuned):
    with pytest.raises(ValueError, match=r"hashing:64.*has no weights"):
        trainable(EmbedConfig(model="hashing:64"), "cpu", two())
    with pytest.raises(ValueError, match=r"has two towers; set dense\.towers to two"):
        trainable(EmbedConfig(model=str(tuned.out / "model")), "cpu", DenseConfig())
    for changes in ({"cross": 1.0}, {"match": "mean"}):
        with pytest.raises(ValueError, match=r"set dense\.towers to two"):
            DenseConfig(**changes)
