"""The ranker as an answer: its order, its row, and a bundle that serves it."""

import json
import shutil

import numpy as np
import pytest

from sidar import Retriever
from sidar.answer.carry import carry_to_catalogue
from sidar.answer.facts import GENERATIVE, read_facts
from sidar.answer.key import VARIABLE
from sidar.answer.memory import Memory
from sidar.data import open_dataset
from sidar.embed import load_embedder
from sidar.pipeline.plan import stages
from sidar.pipeline.rows.answer_log import run_key
from sidar.pipeline.rows.answer_rows import answer_rows
from sidar.pipeline.rows.answering import fuses
from sidar.pipeline.rows.systems import RunParts, generative_rows
from sidar.pipeline.runtime import folders
from sidar.ranker.answer import RankedAnswer
from sidar.ranker.store import Ranker
from sidar.serve.request import RequestError, SearchRequest
from sidar.types import Hits, Prompt

ASKED = "frying pan"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def served(answered):
    return Retriever.load(answered[1] / "bundle", precision="fp32")


class ByRow:
    """A ranker whose score is the row modulo five, and a maker that hands rows through."""

    def __init__(self, known):
        self.known, self.facts, self.reads_beams = known, {"depth": 3}, False
        self.shrinkage = None

    def table(self, prompts, vectors, pairs, generative):
        return pairs.rows[:, None].astype(np.float32)

    def scores(self, features):
        return features[:, 0] % 5


def test_candidates_come_by_score_then_the_rest_by_popularity(answered):
    _, run, _ = answered
    served = Retriever.load(run / "bundle", precision="fp32")
    known = served.fused.ranked.maker.known
    fake = ByRow(known)
    answer = RankedAnswer(fake, fake, served.fused.model)
    hits = Hits(np.array([[8, 3, 14, 2]], np.int32), np.zeros((1, 4), np.float32))
    prompts = [Prompt("nobody asked this")]
    found = answer.rank(prompts, np.zeros((1, 2)), {"bm25": hits}, 6)
    # 14 and 3 and 8: 4, 3, 3, ties by row; 2 is behind the depth of three
    assert found.hits.rows[0, :3].tolist() == [14, 3, 8]
    rest = [row for row in np.argsort(-known.log_prior, kind="stable") if row not in (14, 3, 8)]
    assert found.hits.rows[0, 3:].tolist() == rest[:3]
    assert found.probability[0, :3].sum() == pytest.approx(1)
    assert (found.probability[0, 3:] == 0).all()
    allowed = np.zeros(len(known.clicks), bool)
    allowed[[3, 40, 50]] = True
    some = Hits(np.array([[3]], np.int32), np.zeros((1, 1), np.float32))
    found = answer.rank(prompts, np.zeros((1, 2)), {"bm25": some}, 6, allowed)
    assert sorted(found.hits.rows[0].tolist()) == [3, 40, 50]


def test_the_stage_says_what_the_validation_day_said_and_packs_the_ranker(answered):
    _, run, report = answered
    facts = read_facts(run / "answer")
    beside = facts["ranker"]
    assert beside["effect"] == pytest.approx(beside["ndcg@10"] - beside["memory_ndcg@10"])
    assert beside["better"] == ("ranker" if beside["low"] > 0 else "memory")
    assert facts["fuse"] == "ranker"
    assert "the bundle answers with ranker" in report["summary"]
    assert json.loads((run / "bundle" / "bundle.json").read_text())["fuse"] == "ranker"
    packed = {path.name for path in (run / "bundle" / "answer").iterdir()}
    assert {path.name for path in Ranker.files(run / "ranker", "answer")} <= packed
    assert not any("reward" in name for name in packed)


def test_a_bundle_serves_either_answer_and_one_without_a_ranker_says_so(served, fused_shop):
    ranked = served.search(SearchRequest(query=ASKED, k=5))
    assert ranked.fuse == "ranker"
    assert len(ranked.results) == 5
    scores = [hit.score for hit in ranked.results]
    assert scores == sorted(scores, reverse=True)
    assert served.search(SearchRequest(query=ASKED, k=5, fuse="memory")).fuse == "memory"
    assert served.search(SearchRequest(query=ASKED, k=5, fuse="none")).fuse == "none"
    plain = Retriever.load(fused_shop / "runs/shop/bundle", precision="fp32")
    assert plain.search(SearchRequest(query=ASKED, k=5)).fuse == "memory"
    with pytest.raises(RequestError, match=r"holds no ranker; make it .*ranker\.enabled=true"):
        plain.search(SearchRequest(query=ASKED, fuse="ranker"))


def test_the_row_of_the_table_is_what_the_bundle_serves(answered, served, tmp_path):
    cfg, run, _ = answered
    inputs = folders(run, ("data", "embed", "sid", "index", "answer", "sft", "align-raddpo"))
    parts = RunParts(cfg, inputs)
    label = read_facts(run / "answer")["label"]
    systems = generative_rows(parts, [(label, run / "align-raddpo" / "model")])
    dataset = open_dataset(run / "data")
    embedder = load_embedder(cfg.embed, "cpu")
    found = answer_rows(cfg, inputs, systems, embedder, dataset.priors(), tmp_path / "w").systems
    history = (3, 9)
    hits = found["ranker"].hits([Prompt(ASKED, history)], 8)
    ids = [dataset.catalogue.item_ids[row] for row in history]
    shown = served.search(SearchRequest(query=ASKED, k=8, history=ids))
    assert [hit.item_id for hit in shown.results] == [
        dataset.catalogue.item_ids[row] for row in hits.rows[0]
    ]
    assert {"answer", "memory", "ranker"} <= set(found)
    assert "lambdamart" in found["ranker"].about or "dcn" in found["ranker"].about
    assert GENERATIVE in found["ranker"].about


def test_counts_of_a_later_day_move_what_the_ranker_reads(answered, served, tmp_path):
    _, run, _ = answered
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    shutil.copyfile(run / "memory.key", tmp_path / "memory.key")
    folder = tmp_path / "bundle" / "answer"
    memory = Memory.load(folder)
    heavier = Memory(
        memory.keys, memory.rows, memory.days, memory.weights * 9, memory.users, memory.facts
    )
    heavier.save(folder)
    moved = Retriever.load(tmp_path / "bundle", precision="fp32")
    query = moved.fused.ranked.maker.known.query
    before = served.fused.ranked.maker.known.query
    text = next(one.prompt.query for one in open_dataset(run / "data").requests("train"))
    assert query(text).total == pytest.approx(9 * before(text).total)


def test_the_ranker_goes_with_the_answer_to_another_catalogue(answered, tmp_path):
    _, run, _ = answered
    catalogue = open_dataset(run / "data").catalogue
    carry_to_catalogue(run / "answer", catalogue, tmp_path)
    assert Ranker.load(tmp_path, "answer").facts == Ranker.load(run / "answer", "answer").facts


def test_no_ranker_no_stage_and_a_fuse_that_wants_one_says_so(answered):
    cfg, run, _ = answered
    names = [stage.name for stage in stages(cfg)]
    assert names.index("sft") < names.index("ranker") < names.index("align-raddpo")
    off = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"enabled": False})})
    plain = {stage.name: stage for stage in stages(off)}
    assert "ranker" not in plain
    assert "ranker" not in plain["answer"].inputs
    assert "ranker" in next(s for s in stages(cfg) if s.name == "answer").inputs
    with pytest.raises(ValueError, match=r"no ranker is fitted; set ranker\.enabled to true"):
        fuses(off, open_dataset(run / "data").report)
    assert run_key(cfg)


def test_features_of_beams_bring_the_sft_stage_and_a_second_training(ranked):
    cfg, _ = ranked
    deep = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"sft_steps": 3})})
    without = next(stage for stage in stages(cfg) if stage.name == "ranker")
    with_beams = next(stage for stage in stages(deep) if stage.name == "ranker")
    assert "sft" not in without.inputs
    assert "sft" in with_beams.inputs
    assert {"sft", "lm"} <= set(with_beams.keys)
