"""MiniOneRec's recipe as docs/methods/minionerec.md writes it, on the toy shop."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from toy_stages import build_shop, config

import sidar.train.align as align_stage
from sidar.decode import beam_search
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.train import train_align, train_sft
from sidar.train.inputs import Inputs

PAGE = Path(__file__).resolve().parents[2] / "docs/methods/minionerec.md"
QUICK = {"steps": 3, "batch_size": 8, "validate_every": 3, "lr_new": 3e-3, "lr_pretrained": 3e-3}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = build_shop(tmp_path_factory.mktemp("minionerec"))
    cfg = config(folder / "inputs", sft={"steps": 8})
    train_sft(cfg, folder / "data", None, folder / "sid", folder / "sft", progress=False)
    return folder


def recipe(shop, **changes):
    block = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    return config(shop / "inputs", align={**yaml.safe_load(block)["align"], **changes})


def run(shop, cfg, out):
    folders = (shop / "data", shop / "sid", shop / "sft")
    return train_align(cfg, *folders, out, progress=False)


def test_the_group_is_the_beam_and_its_rewards_are_the_formulas(shop, tmp_path, monkeypatch):
    class Opened(Exception):
        pass

    def stop(task, *_, **__):
        raise Opened(task)

    monkeypatch.setattr(align_stage, "fit", stop)
    cfg = recipe(shop)
    with pytest.raises(Opened) as opened:
        run(shop, cfg, tmp_path / "out")
    task = opened.value.args[0]
    assert (task.objective.name, cfg.align.rollouts.group, cfg.align.item_share) == (
        "minionerec",
        16,
        0,
    )
    examples, inputs = task.batch(0), Inputs.open(shop / "data", shop / "sid")
    assert len(examples) == 16
    beams = beam_search(LmScorer(task.model), [x.tokens for x in examples], inputs.index, 16, 16)
    some_hit = False
    for example, codes in zip(examples, beams.codes.tolist(), strict=True):
        group = example.group
        members = [
            (c.codes, reward)
            for c, inside, reward in zip(
                example.candidates, group.rollout, group.reward, strict=True
            )
            if inside
        ]
        assert [list(one) for one, _ in members] == codes
        right = {
            c.codes
            for c, inside in zip(example.candidates, group.rollout, strict=True)
            if not inside
        }
        hit = any(one in right for one, _ in members)
        total = sum(1 / math.log2(rank + 2) for rank in range(16))
        for rank, (one, reward) in enumerate(members):
            wrong = -1 / math.log2(rank + 2) / total if hit else 0.0
            assert reward == pytest.approx(1.0 if one in right else wrong, abs=1e-6)
        some_hit |= hit
    assert some_hit


def test_the_recipe_trains_and_a_second_run_repeats_it(shop, tmp_path):
    ends = []
    for name in ("one", "two"):
        report = run(shop, recipe(shop, **QUICK), tmp_path / name)
        ends.append(SidLM.from_pretrained(tmp_path / name / "model").state_dict())
    start = SidLM.from_pretrained(shop / "sft" / "model").state_dict()
    assert math.isfinite(report["loss"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)
