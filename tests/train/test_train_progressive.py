"""S1, S2 and S3 of progressive training: what each trains on, and what it starts from."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_stages import build_shop, config
from toy_train import toy_sids

from sidar.config import Config, ProgressiveConfig
from sidar.data import open_dataset
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.lm.prompts import PromptBuilder
from sidar.lm.vocab import SidVocab
from sidar.train import progressive, train_progressive
from sidar.train.inputs import Inputs
from sidar.train.progressive import AnswerStream, query_alone

QUICK = {
    "steps": 6,
    "batch_size": 8,
    "precision": "fp32",
    "validate_every": 3,
    "checkpoint_every": 2,
    "valid_requests": 8,
    "lr_new": 3e-3,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return build_shop(tmp_path_factory.mktemp("progressive"), marked=True)


def a_config(shop, **changes):
    cfg = config(shop / "inputs")
    stages = {name: {**QUICK, **changes.get(name, {})} for name in ("s1", "s2", "s3")}
    return cfg.model_copy(update={"progressive": ProgressiveConfig(stages=["s1", "s2"], **stages)})


def train(shop, cfg, name, start, out, **kwargs):
    folders = (shop / "data", shop / "data", shop / "sid")  # embed is read for lm.geometry alone
    return train_progressive(cfg, name, *folders, start, out, progress=False, **kwargs)


@pytest.fixture(scope="module")
def first(shop):
    train(shop, a_config(shop), "s1", None, shop / "s1")
    return shop / "s1"


def stream_of(monkeypatch, shop, cfg, name, start, out):
    """What a stage hands to its task, in place of training."""

    class Seen(Exception):
        pass

    def stop(model, streams, *_, **__):
        raise Seen(model, streams)

    monkeypatch.setattr(progressive, "SftTask", stop)
    with pytest.raises(Seen) as seen:
        train(shop, cfg, name, start, out)
    model, streams = seen.value.args
    return model, streams[name]


def words(model, tokens):
    return model.tokenizer.decode([t for t in tokens if t < model.text_vocab]).split()


def test_each_stage_reads_what_it_is_named_for(monkeypatch, shop, first, tmp_path):
    cfg = a_config(shop)
    seen = {}
    for name in ("s1", "s2", "s3"):
        model, stream = stream_of(monkeypatch, shop, cfg, name, first, tmp_path)
        seen[name] = [
            (words(model, x.tokens), x) for x in stream.examples([(i, 0) for i in range(24)])
        ]
    titles = {t.lower() for t in open_dataset(shop / "data").catalogue.column("title")}
    assert all(
        " ".join(said).split("product ")[-1].removesuffix(" =") in titles for said, _ in seen["s1"]
    )
    assert all("zebra" in said for name in ("s2", "s3") for said, _ in seen[name])  # training days
    assert not any({"history", "user"} & set(said) for said, _ in seen["s2"])
    assert any("history" in said for said, _ in seen["s3"])
    assert any("user" in said for said, _ in seen["s3"])
    assert {len(x.candidates) for _, x in seen["s1"]} == {1}
    assert max(len(x.candidates) for _, x in seen["s2"]) == 3


def test_answers_are_drawn_from_all_requests_of_a_query_by_how_often_they_were_chosen(first):
    model, sids = SidLM.from_pretrained(first / "model"), toy_sids()
    vocab = SidVocab(sids.codebook_sizes, model.text_vocab)
    rows = [("tent", [0, 1]), ("tent", [1]), ("", [2]), ("mug", [5])]
    table = pa.table(
        {
            "query": [query for query, _ in rows],
            "positives": pa.array([chosen for _, chosen in rows], pa.list_(pa.int32())),
        }
    )
    builder = PromptBuilder(model.tokenizer, vocab)
    stream = AnswerStream(table, sids, PrefixIndex.build(sids), builder, seed=1, count=3)
    assert len(stream) == 3  # a request without text has no query
    draws = stream.examples([(0, epoch) for epoch in range(600)])
    answers = [tuple(c.codes for c in example.candidates) for example in draws]
    assert {frozenset(answer) for answer in answers} == {
        frozenset([sids.tuple_of(0), sids.tuple_of(1)])
    }
    share = np.mean([answer[0] == sids.tuple_of(1) for answer in answers])
    assert share == pytest.approx(2 / 3, abs=0.06)  # row 1 was chosen twice of three times
    assert answers == [
        tuple(c.codes for c in e.candidates)
        for e in stream.examples([(0, epoch) for epoch in range(600)])
    ]
    mug = stream.examples([(2, 0)])[0]
    assert [c.codes for c in mug.candidates] == [sids.tuple_of(5)]
    assert mug.candidates[0].at is None
    first_sid = draws[0].candidates[0]
    assert draws[0].tokens == vocab.continued(draws[0].tokens[: first_sid.at], first_sid.codes)


def test_a_stage_continues_the_model_before_it_and_a_killed_one_itself(
    monkeypatch, shop, first, tmp_path
):
    cfg = a_config(shop)
    model, _ = stream_of(monkeypatch, shop, cfg, "s2", first, tmp_path)
    monkeypatch.undo()
    before = SidLM.from_pretrained(first / "model").state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    whole = train(shop, cfg, "s2", first, tmp_path / "whole")
    from sidar.train import loop

    original = loop.LmTraining._step

    def dies(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return original(self, step)

    work = tmp_path / "work"
    monkeypatch.setattr(loop.LmTraining, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(shop, cfg, "s2", first, tmp_path / "cut", work=work)
    monkeypatch.setattr(loop.LmTraining, "_step", original)
    resumed = train(shop, cfg, "s2", first, tmp_path / "cut", work=work)
    assert resumed["resumed_from"] == 4
    ends = [SidLM.from_pretrained(tmp_path / name / "model") for name in ("whole", "cut")]
    for name, weight in ends[0].named_parameters():
        assert torch.equal(weight, ends[1].get_parameter(name)), name
    assert whole["loss"] == resumed["loss"]
    # the separator's row is trained by S2 alone
    separator = ends[0].vocab.separator
    assert not torch.equal(ends[0].sid_in[separator], before["sid_in"][separator])
    start = SidLM.build(cfg.lm, Inputs.open(shop / "data", shop / "sid").sids, seed=cfg.seed)
    assert start.sid_in.shape == before["sid_in"].shape


def test_validation_of_s2_asks_with_the_query_alone(shop):
    table = query_alone(open_dataset(shop / "data").lists("valid"))
    assert table.num_rows > 0
    assert set(table.column("profile").to_pylist()) == {""}
    assert all(row == [] for row in table.column("history").to_pylist())


def test_stages_in_another_order_are_refused():
    with pytest.raises(ValueError, match="in the order s1, s2, s3, s4"):
        Config(progressive={"stages": ["s2", "s1"]})
