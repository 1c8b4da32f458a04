"""The two stages on the toy shop, from the data folder to a saved model."""

import json

import pytest
import torch
from toy_stages import config

from sidar.data import build
from sidar.lm import SidLM
from sidar.train import train_align, train_sft


def sft(shop, out, **kwargs):
    cfg = kwargs.pop("cfg", None) or config(shop / "inputs")
    return train_sft(cfg, shop / "data", None, shop / "sid", out, progress=False, **kwargs)


def align(shop, sft_folder, out, cfg, **kwargs):
    return train_align(cfg, shop / "data", shop / "sid", sft_folder, out, progress=False, **kwargs)


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "sft"
    return out, sft(shop, out)


def weights(folder):
    return SidLM.from_pretrained(folder / "model").state_dict()


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def test_sft_leaves_models_and_logs_and_clears_its_work(trained):
    out, report = trained
    files = {"model", "best", "log.jsonl", "tensorboard", "fit.png"}
    assert {path.name for path in out.iterdir()} == files
    assert (out / "fit.png").stat().st_size > 20_000
    assert not (out.parent / ".sft.work").exists()
    assert report["streams"]["item"] == report["streams"]["pseudo"] == 64
    assert report["streams"]["query"] > 0
    assert report["valid_examples"] == 16
    assert report["final"]["step"] == 12
    assert json.dumps(report["shapes"])
    assert report["shapes"]["precision"] == "fp32"
    assert "recall@8" in report["summary"]
    assert SidLM.from_pretrained(out / "best").vocab.codebook_sizes == (8, 4, 4)


@pytest.mark.parametrize("name", ["raddpo", "dpo", "sft"])
def test_alignment_starts_from_sft_and_logs_it_as_step_zero(shop, trained, tmp_path, name):
    cfg = config(shop / "inputs", align={"objective": name})
    report = align(shop, trained[0], tmp_path / cfg.align.folder, cfg)
    out = tmp_path / f"align-{name}"
    assert not same(weights(trained[0]), weights(out))
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    first = next(r for r in records if r["kind"] == "valid")
    assert first["step"] == 0
    # the same lists, the same model
    assert first["nll"] == pytest.approx(trained[1]["final"]["nll"], abs=1e-4)
    assert "pairs/accuracy" in first
    assert report["counts"]["lists"] > 0
    assert report["valid_lists"] == 16


def test_negatives_from_the_beam_need_no_impressions(shop, trained, tmp_path):
    cfg = config(shop / "inputs", preference={"negatives": "beam", "max_negatives": 4})
    report = align(shop, trained[0], tmp_path / "align-raddpo", cfg)
    assert report["counts"]["lists_without_negatives"] == 0
    assert report["counts"]["negatives_sharing_a_positive_sid"] > 0


def test_interrupted_stages_are_continued_and_other_settings_refused(
    shop, trained, tmp_path, monkeypatch
):
    from sidar.train import loop

    cfg, work = config(shop / "inputs"), tmp_path / ".align.work"
    whole = align(shop, trained[0], tmp_path / "whole", cfg)
    original = loop.LmTraining._step

    def dies(self, step):
        if step == 9:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(loop.LmTraining, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        align(shop, trained[0], tmp_path / "cut", cfg, work=work)
    monkeypatch.setattr(loop.LmTraining, "_step", original)
    other = config(shop / "inputs", align={"beta": 5.0})
    with pytest.raises(ValueError, match=r"align\.beta: 0\.5 -> 5\.0"):
        align(shop, trained[0], tmp_path / "cut", other, work=work)
    # what null means: the same run
    stated = config(shop / "inputs", align={"beta": 0.5, "positives": "mean"})
    report = align(shop, trained[0], tmp_path / "cut", stated, work=work)
    assert (report["resumed_from"], whole["resumed_from"]) == (8, 0)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert work.exists()  # its owner, the pipeline, deletes it once the artefact stands


def test_settings_that_only_change_what_is_written_may_change(shop, trained, tmp_path):
    work = tmp_path / ".work"
    align(shop, trained[0], tmp_path / "a", config(shop / "inputs"), work=work)
    relaxed = config(
        shop / "inputs", align={"log_every": 1, "keep_checkpoints": 5, "checkpoint_every": 100}
    )
    assert align(shop, trained[0], tmp_path / "b", relaxed, work=work)["resumed_from"] == 12


def test_a_warm_start_takes_the_bundles_model(shop, trained, tmp_path):
    cfg = config(shop / "inputs", sft={"steps": 4, "lr_new": 1e-9, "lr_pretrained": 1e-9})
    cfg.warm_start = str(trained[0])  # as in a bundle, the model is in model/
    sft(shop, tmp_path / "sft", cfg=cfg)
    before, after = weights(trained[0]), weights(tmp_path / "sft")
    assert all(torch.allclose(before[n], after[n], atol=1e-6) for n in before)


def test_what_is_missing_is_said(shop, trained, tmp_path):
    with pytest.raises(ValueError, match=r"raddpo, raddpo-paper"):
        align(
            shop, trained[0], tmp_path / "x", config(shop / "inputs", align={"objective": "radpo"})
        )
    with pytest.raises(ValueError, match="no Sidar model"):
        align(shop, tmp_path / "nothing", tmp_path / "x", config(shop / "inputs"))
    with pytest.raises(ValueError, match="no dataset"):
        train_sft(config(shop / "inputs"), tmp_path, None, shop / "sid", tmp_path / "x")


def test_a_shop_without_a_log_trains_on_its_words(shop, tmp_path):
    import shutil

    import pyarrow.parquet as pq

    shutil.copytree(shop / "data", tmp_path / "data")
    for name in ("sft.parquet", "lists.parquet"):
        pq.write_table(
            pq.read_table(tmp_path / "data" / name).slice(0, 0), tmp_path / "data" / name
        )
    cfg = config(shop / "inputs")
    report = train_sft(cfg, tmp_path / "data", None, shop / "sid", tmp_path / "sft", progress=False)
    assert report["streams"]["query"] == 0
    # items spread over the shop, in words that training never draws
    assert report["valid_examples"] == 16
    with pytest.raises(ValueError, match="needs logged clicks"):
        train_align(cfg, tmp_path / "data", shop / "sid", tmp_path / "sft", tmp_path / "align")


def test_without_a_validation_window_both_stages_say_that_nothing_was_validated(shop, tmp_path):
    cfg = config(shop / "inputs", split={"valid_days": 0})
    build(cfg, tmp_path / "data")
    one = train_sft(cfg, tmp_path / "data", None, shop / "sid", tmp_path / "sft", progress=False)
    two = train_align(
        cfg, tmp_path / "data", shop / "sid", tmp_path / "sft", tmp_path / "align", progress=False
    )
    for name, report in (("sft", one), ("align", two)):
        assert "nothing validated" in report["summary"]
        assert "nll" not in report["summary"]
        assert report["best"] == report["final"] == {"step": 12}
        best = SidLM.from_pretrained(tmp_path / name / "best").state_dict()
        assert same(best, weights(tmp_path / name))
