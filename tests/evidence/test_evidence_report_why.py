"""The lab's corners, the reordered beam and the ladder on planted effects."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from evidence_cells import Folder, main_cells, read, write

from experiments.raddpo.report.compare import room
from experiments.raddpo.report.families import at_equal_rates, family

MRR = "click.sid.mrr"
TRUE = "utility.sid.ndcg@10"
LONGER = "lists=7680,lr_new=9e-05"


@pytest.fixture
def folder(tmp_path):
    return main_cells(Folder(tmp_path))


def corners(folder, win, lose, seeds=3):
    for seed in range(seeds):
        folder.add("sft-continued", seed, axis=LONGER, effect=0.0, groups=("lab",))
        folder.add("raddpo", seed, axis=f"data=clean,{LONGER}", effect=win, groups=("lab",))
        folder.add("raddpo", seed, axis=f"noise=0.5,{LONGER}", effect=lose, groups=("lab",))


def reachable(folder, gain):
    """Give the SFT cells the columns of their own beam in the order of the true utility."""
    for path in folder.loose.glob("sft.s*.parquet"):
        table = pq.read_table(path)
        values = table.column(MRR).to_numpy()
        pq.write_table(table.append_column(f"reachable.{MRR}", [np.float32(values + gain)]), path)


def test_without_the_labs_cells_the_corners_are_not_run(folder):
    assert family(read(folder), "corners", TRUE) == {}
    page, _ = write(folder)
    assert "Not run." in page[page.index("## Where it must win") :].split("\n## ")[0]


@pytest.mark.parametrize(
    ("win", "lose", "words"), [(0.05, -0.05, ["holds"] * 3), (-0.05, 0.05, ["does not hold"] * 3)]
)
def test_the_labs_corners_get_the_verdicts_of_their_planted_effects(folder, win, lose, words):
    corners(folder, win, lose)
    evidence = read(folder)
    predicted = family(evidence, "corners", TRUE)
    assert [name.split(": ")[-1] for name in predicted] == [
        "better",
        "worse",
        "the first above the second",
    ]
    assert [result.word for result in predicted.values()] == words
    beside = family(evidence, "beside the corners", MRR)
    first = next(iter(beside.values()))
    assert first.test.effect == pytest.approx(win, abs=0.01)
    # The lab predicts nothing on clicks: effects are shown there, and no words.
    page, _ = write(folder)
    tables = re.findall(r"^### Predicted: .*\((\w+)\)\n\n(.*)$", page, re.MULTILINE)
    assert [("verdict" in head) for _, head in tables] == [t == "utility" for t, _ in tables]
    assert len(tables) == 4
    name = "| RAD-DPO (softmax), no relevant negative |"
    level = next(line for line in page.splitlines() if line.startswith(name))
    assert level.count("–") == 4


@pytest.mark.parametrize("gain", [0.1, -0.1])
def test_the_reordered_beam_says_whether_clicks_reward_the_truth(folder, gain):
    reachable(folder, gain)
    assert room(read(folder), MRR).reachable.test.effect == pytest.approx(gain, abs=1e-4)


def test_at_equal_learning_rates_the_answer_follows_the_ladder(folder):
    assert at_equal_rates(read(folder), MRR) is None
    for seed in range(3):
        folder.add("sft-continued", seed, axis="lr_new=3e-05", effect=0.1, groups=("ladder",))
    result = at_equal_rates(read(folder), MRR)
    assert result.word == "does not hold"
    assert result.test.effect < 0


def test_more_sft_is_compared_with_sft(folder):
    corners(folder, 0.05, -0.05)
    for seed in range(3):
        folder.add("sft-continued", seed, axis=LONGER, effect=0.2, groups=("lab",))
    beside = family(read(folder), "beside the corners", TRUE)
    more = beside["SFT continued (lists 7680,lr_new 9e-05) − SFT"]
    assert (more.word, more.test.effect > 0.1) == ("holds", True)


def test_best_and_final_checkpoints_stand_beside_each_other(folder):
    for seed in range(3):
        last = 0.4 if seed else 0.6
        points = [{"step": s, "recall@8": r} for s, r in ((0, 0.3), (60, 0.5), (120, last))]
        folder.add("raddpo", seed, train={"gradient_ratio": 0.3, "valid": points})
    page, _ = write(folder)
    part = page[page.index("### Best and final checkpoint") :]
    line = next(line for line in part.splitlines() if line.startswith("| RAD-DPO"))
    assert line == "| RAD-DPO (softmax) | .300 | .533 *.500 … .600* | .467 *.400 … .600* | 1 of 3 |"
