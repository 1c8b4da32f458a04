"""The features of beams: a second model of the days before, and nothing of its day in it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sidar.answer.key import VARIABLE
from sidar.data.cleaning.clean import DAY_US
from sidar.pipeline.rows.auxiliary import data_before, train_before
from sidar.pipeline.rows.ranking import ranker
from sidar.pipeline.runtime import folders
from sidar.ranker.store import Ranker


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_second_model_reads_rows_of_earlier_days_alone(ranked, tmp_path):
    _, run = ranked
    rows = pq.read_table(run / "data" / "sft.parquet")
    days = np.array(rows.column("ts").to_pylist()) // DAY_US
    last = int(days.max())
    data_before(run / "data", last, tmp_path / "data")
    kept = pq.read_table(tmp_path / "data" / "sft.parquet")
    assert len(kept) == int((days < last).sum()) > 0
    assert (np.array(kept.column("ts").to_pylist()) // DAY_US < last).all()
    assert len(pq.read_table(tmp_path / "data" / "lists.parquet")) == 0


def test_with_a_second_model_the_answer_reads_beams_and_the_reward_does_not(ranked, tmp_path):
    cfg, run = ranked
    cfg = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"sft_steps": 2})})
    inputs = folders(run, ("data", "embed", "sid", "sft"))
    out = tmp_path / "ranker"
    out.mkdir()
    report = ranker(cfg, inputs, out, tmp_path / "work")
    assert Ranker.load(out, "answer").reads_beams
    assert not Ranker.load(out, "reward").reads_beams
    assert report["shapes"]["levels"] == Ranker.load(out, "answer").levels > 0
    # a finished model of the same settings is taken as it is
    models = list((tmp_path / "work" / "sft").glob("*/out/model/model.safetensors"))
    assert len(models) == 1
    before = models[0].stat().st_mtime_ns
    day = Ranker.load(out, "answer").facts["days"][0]
    train_before(cfg, inputs, day, tmp_path / "work" / "sft")
    assert models[0].stat().st_mtime_ns == before
