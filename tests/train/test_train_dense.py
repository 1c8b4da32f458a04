"""The encoder fine-tuned on the training rows: its pairs, its loss, and the folder
that it leaves.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from tiny_encoder import save_tiny_encoder
from toy_stages import config

from sidar.config import DenseConfig, EmbedConfig
from sidar.data import open_dataset
from sidar.embed import load_embedder, load_items
from sidar.train import train_dense
from sidar.train.encoder.contrast import in_batch_loss
from sidar.train.encoder.dense import trainable, tune, validation
from sidar.train.encoder.pairs import LogPairs, Pair, PseudoPairs, hidden
from sidar.train.pseudo import item_words
from sidar.types import EvalSet, Prompt


def sft_table(*rows):
    queries, positives = zip(*rows, strict=True)
    return pa.table(
        {
            "query": pa.array(queries, pa.string()),
            "positives": pa.array(positives, pa.list_(pa.int32())),
        }
    )


# --- the loss

NOTHING = torch.zeros(2, 2, dtype=torch.bool)
QUERIES, ITEMS = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines [[1, .6], [0, .8]]


def test_the_loss_by_hand():
    # (1 − .6) / .5 and (.8 − 0) / .5
    one_way = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))) / 2
    # (1 − 0) / .5 and (.8 − .6) / .5
    back = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-0.4))) / 2
    assert in_batch_loss(QUERIES, ITEMS, NOTHING, 0.5).item() == pytest.approx(one_way, abs=1e-6)
    both = in_batch_loss(QUERIES, ITEMS, NOTHING, 0.5, symmetric=True).item()
    assert both == pytest.approx((one_way + back) / 2, abs=1e-6)
    # item 1 answers query 0 too: query 0 has no negative left
    hide = torch.tensor([[False, True], [False, False]])
    assert in_batch_loss(QUERIES, ITEMS, hide, 0.5).item() == pytest.approx(
        math.log(1 + math.exp(-1.6)) / 2, abs=1e-6
    )


def test_a_hidden_item_gets_no_gradient_from_the_query_that_it_answers():
    items = ITEMS.clone().requires_grad_()
    hide = torch.tensor([[False, True], [True, False]])
    in_batch_loss(QUERIES, items, hide, 0.5).backward()
    assert not items.grad.any()


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_equals_a_slow_loop(symmetric):
    generator = torch.Generator().manual_seed(0)
    queries, items = (F.normalize(torch.randn(7, 5, generator=generator), dim=1) for _ in range(2))
    hide = torch.rand(7, 7, generator=generator) < 0.3
    hide.fill_diagonal_(False)

    def direction(a, b, hide):
        total = 0.0
        for i in range(7):
            scores = [float(a[i] @ b[j]) / 0.05 for j in range(7) if not hide[i, j]]
            total += math.log(sum(math.exp(s) for s in scores)) - float(a[i] @ b[i]) / 0.05
        return total / 7

    want = direction(queries, items, hide)
    if symmetric:
        want = (want + direction(items, queries, hide.T)) / 2
    assert in_batch_loss(queries, items, hide, symmetric=symmetric).item() == pytest.approx(
        want, rel=1e-4
    )


def test_without_hidden_items_it_is_sentence_transformers_loss():
    try:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    except ModuleNotFoundError:  # before sentence-transformers 6
        from sentence_transformers.losses import MultipleNegativesRankingLoss

    generator = torch.Generator().manual_seed(1)
    queries, items = (F.normalize(torch.randn(6, 5, generator=generator), dim=1) for _ in range(2))
    vectors = iter([queries, items])
    theirs = MultipleNegativesRankingLoss(
        lambda features: {"sentence_embedding": next(vectors)}, scale=20.0
    )
    ours = in_batch_loss(queries, items, torch.zeros(6, 6, dtype=torch.bool))
    assert ours.item() == pytest.approx(theirs([{}, {}], torch.empty(0)).item(), rel=1e-5)


# --- the pairs


def test_logged_pairs_know_every_answer_to_the_same_text():
    table = sft_table(
        ("Red Mug", [4, 2]),
        ("red  mug ", [7]),
        ("blue mug", [3, 5]),
        ("", [1]),
        ("lid", [9]),
        (None, [1]),
    )
    alive = np.arange(10) != 9
    pairs = LogPairs(table, alive, seed=0)
    assert (len(pairs), pairs.dropped) == (3, 3)  # no text twice, and a retired item
    first, second, third = (pairs.pair(i, 0) for i in range(3))
    assert first.query == "Red Mug"
    assert first.positives.tolist() == second.positives.tolist() == [2, 4, 7]
    assert (second.query, second.row) == ("red  mug", 7)
    assert third.positives.tolist() == [3, 5]
    assert {pairs.pair(0, epoch).row for epoch in range(30)} == {2, 4}
    assert pairs.pair(0, 3).row == LogPairs(table, alive, seed=0).pair(0, 3).row


def test_logged_pairs_draw_from_the_best_positives_and_know_them_all():
    table = sft_table(("mug", [4, 9, 2, 7, 3]))
    pairs = LogPairs(table, np.arange(10) != 9, seed=0, max_positives=2)
    drawn = [pairs.pair(0, epoch) for epoch in range(40)]
    assert {pair.row for pair in drawn} == {4, 2}  # the two best that are for sale
    assert drawn[0].positives.tolist() == [2, 3, 4, 7]


def test_pseudo_pairs_know_every_item_with_the_words():
    words = [
        item_words(title, None, None) for title in ("red steel mug", "red mug", "", "green tea")
    ]
    pairs = PseudoPairs(words, np.array([True, True, True, False]), seed=0)
    assert len(pairs) == 2  # one item has no word, one is retired
    for epoch in range(40):
        pair = pairs.pair(0, epoch)
        asked = set(pair.query.split())
        assert pair.row == 0
        assert pair.positives.tolist() == [
            row for row in (0, 1) if row == 0 or asked <= {"red", "mug"}
        ]


def test_what_answers_a_query_too_is_no_negative():
    known = [np.array([4, 7]), np.array([2]), np.array([4, 7]), np.array([7])]
    pairs = [Pair("q", row, positives) for row, positives in zip([4, 2, 7, 7], known, strict=True)]
    assert hidden(pairs).tolist() == [
        [False, False, True, True],  # 7 answers query 0, twice
        [False, False, False, False],
        [True, False, False, True],  # the same item again is no negative either
        [False, False, True, False],
    ]


# --- tuning


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", seed=0))


def small(**changes):
    return DenseConfig(
        **{"steps": 30, "batch_size": 16, "lr": 3e-3, "validate_every": 10, "precision": "fp32"}
        | changes
    )


def run_config(shop, encoder, **dense):
    cfg = config(shop / "inputs", sft={})
    cfg.embed = EmbedConfig(model=encoder, dtype="fp32")
    cfg.dense = small(**dense)
    return cfg


@pytest.fixture(scope="module")
def tuned(shop, encoder, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("tuned")
    cfg = run_config(shop, encoder)
    return SimpleNamespace(cfg=cfg, out=out, report=train_dense(cfg, shop / "data", out))


def test_it_learns_and_the_best_step_is_kept(tuned):
    shapes, log = tuned.report["shapes"], tuned.report["log"]
    assert [record["step"] for record in log] == [0, 10, 20, 30]
    assert shapes["untuned"] == log[0]
    assert (
        shapes["best"]["ndcg@10"]
        == max(record["ndcg@10"] for record in log)
        > log[0]["ndcg@10"] + 0.1
    )
    assert shapes["best"]["ndcg@10"] == pytest.approx(
        np.mean(list(shapes["best"]["sets"].values()))
    )
    assert shapes["step"] == shapes["best"]["step"]


def test_the_log_is_that_of_every_training(tuned):
    lines = (tuned.out / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    trained = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in trained] == [10, 20, 30]
    assert {"loss", "grad_norm", "lr", "pairs_per_s", "seconds"} <= set(trained[0])
    valid = [record for record in records if record["kind"] == "valid"]
    assert [(record["step"], record["ndcg@10"]) for record in valid] == [
        (record["step"], record["ndcg@10"]) for record in tuned.report["log"]
    ]
    assert any((tuned.out / "tensorboard").iterdir())
    assert (tuned.out / "fit.png").stat().st_size > 20_000


def test_the_folder_is_an_encoder_and_its_vectors(tuned, shop):
    data = open_dataset(shop / "data")
    embedder = load_embedder(EmbedConfig(model=str(tuned.out / "model"), dtype="fp32"), "cpu")
    texts = data.item_text(tuned.cfg.embed.fields)
    vectors = load_items(tuned.out)
    np.testing.assert_allclose(vectors, embedder.encode(texts), atol=1e-6)
    assert (
        json.loads((tuned.out / "embedder.json").read_text())["fingerprint"] == embedder.fingerprint
    )
    validate = validation(data.eval_sets("valid"), data.catalogue, texts, tuned.cfg.dense)
    assert validate(embedder) == pytest.approx(tuned.report["shapes"]["best"]["sets"], abs=1e-9)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tuned, shop, encoder, tmp_path
):
    def weights(folder):
        return load_embedder(EmbedConfig(model=str(folder / "model")), "cpu").model.state_dict()

    first = weights(tuned.out)
    for seed in (0, 1):
        cfg = run_config(shop, encoder)
        cfg.seed = seed
        (tmp_path / str(seed)).mkdir()
        torch.manual_seed(123 + seed)  # what was drawn before does not matter
        train_dense(cfg, shop / "data", tmp_path / str(seed))
        same = [
            torch.equal(first[name], tensor)
            for name, tensor in weights(tmp_path / str(seed)).items()
        ]
        assert all(same) == (seed == 0)


def test_only_training_rows_are_asked(shop):
    data = open_dataset(shop / "data")
    table = data.sft()
    pairs = LogPairs(table, data.catalogue.alive, seed=0)
    asked = {
        (pair.query, pair.row)
        for i in range(len(pairs))
        for pair in (pairs.pair(i, e) for e in range(8))
    }
    train = {
        (request.prompt.query.strip(), row)
        for request in data.requests("train")
        for row, action in zip(request.rows, request.actions, strict=True)
        if action > 0
    }
    assert asked <= train
    later = {r.prompt.query.strip() for s in ("valid", "test") for r in data.requests(s)} - {
        q for q, _ in train
    }
    assert later - {query for query, _ in asked} == later


def test_the_weights_of_the_best_step_come_back(encoder):
    embedder = trainable(EmbedConfig(model=encoder, dtype="fp32"), "cpu")
    seen, values = [], iter([0.1, 0.5, 0.3])

    def validate(embedder):
        seen.append({name: tensor.clone() for name, tensor in embedder.model.state_dict().items()})
        return {"a": next(values), "b": 0.0}

    texts = ["red mug", "blue mug", "steel pan", "tea pot"]
    pairs = LogPairs(
        sft_table(*((text, [row]) for row, text in enumerate(texts))), np.ones(4, bool), 0
    )
    done = tune(
        embedder,
        {"query": pairs},
        texts,
        small(steps=4, batch_size=4, validate_every=2),
        validate=validate,
    )
    assert [record["step"] for record in done.log] == [0, 2, 4]
    assert done.best == {"step": 2, "ndcg@10": 0.25, "sets": {"a": 0.5, "b": 0.0}}
    for name, tensor in embedder.model.state_dict().items():
        assert torch.equal(tensor, seen[1][name])
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in seen[1])


def test_validation_ranks_all_judged_items_and_as_many_others_as_are_allowed(shop, encoder):
    data = open_dataset(shop / "data")
    catalogue, embedder = data.catalogue, trainable(EmbedConfig(model=encoder, dtype="fp32"), "cpu")
    texts = [f"word{row}" for row in range(len(catalogue))]
    qrels = {"q": {catalogue.item_ids[5]: 1.0}, "r": {catalogue.item_ids[9]: 1.0}}
    sets = [
        EvalSet(
            "s", ("q", "r", "e"), (Prompt("word5 word9"), Prompt("word9 word1"), Prompt(" ")), qrels
        )
    ]
    cosines = embedder.encode(["word5 word9", "word9 word1"]) @ embedder.encode(texts).T

    def mean_ndcg(rows):
        places = [
            1 + sum(cosine[rows] > cosine[own]) for cosine, own in zip(cosines, (5, 9), strict=True)
        ]
        return np.mean([1 / math.log2(place + 1) if place <= 10 else 0 for place in places])

    everything = validation(sets, catalogue, texts, small())(embedder)
    # the empty query is not asked
    assert everything == {"s": pytest.approx(mean_ndcg(np.arange(64)))}
    judged = validation(sets, catalogue, texts, small(valid_items=1))(embedder)
    assert judged == {"s": pytest.approx(mean_ndcg([5, 9]))}
    assert judged["s"] > everything["s"]
    assert validation([], catalogue, texts, small()) is None
    assert validation([EvalSet("none", (), (), {})], catalogue, texts, small()) is None


# --- bad input


def test_no_validation_query_keeps_the_last_step(shop, encoder, tmp_path):
    report = train_dense(run_config(shop, encoder, steps=2), shop / "data", tmp_path, valid_sets=[])
    assert report["shapes"]["best"] is None
    assert report["shapes"]["step"] == 2
    assert "last step" in report["summary"]
    assert load_items(tmp_path).shape == (64, 16)


def test_a_log_without_text_leaves_the_pseudo_queries(encoder):
    embedder = trainable(EmbedConfig(model=encoder, dtype="fp32"), "cpu")
    logged = LogPairs(sft_table(("", [0]), ("", [1])), np.ones(3, bool), 0)
    assert (len(logged), logged.dropped) == (0, 2)
    texts = ["red mug", "blue pan", "tea pot"]
    pseudo = PseudoPairs([item_words(text, None, None) for text in texts], np.ones(3, bool), 0)
    done = tune(embedder, {"query": logged, "pseudo": pseudo}, texts, small(steps=2, batch_size=2))
    assert np.isfinite(done.loss)
    with pytest.raises(ValueError, match="nothing to train on"):
        tune(
            embedder,
            {"query": logged, "pseudo": PseudoPairs([], np.ones(0, bool), 0)},
            texts,
            small(),
        )


def test_encoders_that_cannot_be_tuned_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"hashing:64.*has no weights"):
        trainable(EmbedConfig(model="hashing:64"), "cpu")
    with pytest.raises(ValueError, match="cannot be loaded"):
        trainable(EmbedConfig(model=str(tmp_path / "nowhere")), "cpu")
