"""The section that says why: causes from the cells' figures, and the lab's corners on planted
effects.
"""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from evidence_cells import Folder, main_cells, read, write

from benchmarks.evidence.report.document import Text, plain
from benchmarks.evidence.report.why import checkpoints, why

LONGER = "lists=7680,lr_new=9e-05"


def said(section):
    return " ".join(plain(block.text) for block in section.blocks if isinstance(block, Text))


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
    for path in folder.results.glob("sft.s*.parquet"):
        table = pq.read_table(path)
        values = table.column("click.sid.mrr").to_numpy()
        pq.write_table(
            table.append_column("reachable.click.sid.mrr", [np.float32(values + gain)]), path
        )


def test_without_the_labs_cells_the_corners_are_not_run(folder):
    assert "Not run." in said(why(read(folder)))


@pytest.mark.parametrize(
    ("win", "lose", "words"), [(0.05, -0.05, ["holds"] * 3), (-0.05, 0.05, ["does not hold"] * 3)]
)
def test_the_labs_corners_get_the_verdicts_of_their_planted_effects(folder, win, lose, words):
    corners(folder, win, lose)
    page, _ = write(folder)
    part = page[page.index("Where it must win") :]
    for name, word in zip(("better", "worse", "the first above the second"), words, strict=True):
        line = next(x for x in part.splitlines() if x.startswith("|") and name in x)
        assert word in line, line
    # The lab predicts nothing on clicks: effects are shown there, and no words.
    part = part[part.index("| SID MRR (click), predicted") :]
    tables = re.findall(r"^\| (?:SID|item) .*\((?:click|utility)\), .*$", page, re.MULTILINE)
    assert [("verdict" in head) for head in tables] == [
        "utility), predicted" in head for head in tables
    ]
    assert len(tables) == 8
    line = next(
        x for x in part.splitlines() if x.startswith("| no relevant negative − SFT continued, base")
    )
    assert f"{'+' if win > 0 else '−'}.0" in line
    assert (
        "it does **not** set the share of accidental clicks, negatives from the model's own beam"
        in page
    )
    level = next(
        x for x in part.splitlines() if x.startswith("| RAD-DPO (softmax), no relevant negative |")
    )
    assert level.count("±") == 4


@pytest.mark.parametrize(
    ("gain", "text"), [(0.1, "clicks do reward the truth"), (-0.1, "do not reward the truth")]
)
def test_the_reordered_beam_says_whether_clicks_reward_the_truth(folder, gain, text):
    reachable(folder, gain)
    assert text in said(why(read(folder)))


def test_a_contrast_that_points_where_sft_points_is_said_to(folder):
    evidence = read(folder)
    assert "points much where SFT points" not in said(why(evidence))
    for cell in evidence.runs("raddpo").values():
        cell.facts["mechanism"]["gradient/cosine"] = 0.8
    assert "points much where SFT points" in said(why(evidence))


def test_at_equal_learning_rates_the_cause_follows_the_ladder(folder):
    assert "At equal learning rates" not in said(why(read(folder)))
    for seed in range(3):
        folder.add("sft-continued", seed, axis="lr_new=3e-05", effect=0.1, groups=("ladder",))
    text = said(why(read(folder)))
    assert re.search(
        r"At equal learning rates RAD-DPO \(softmax\) is −\.0\d+ .* lower, so it is the contrast",
        text,
    )
    page, _ = write(folder)
    assert re.search(
        r"\| … at the same learning rate\? \| \*\*does not hold\*\* \| SID MRR −\.0", page
    )


def test_an_sft_that_still_learns_is_said_to_be_short_of_its_plateau(folder):
    corners(folder, 0.05, -0.05)
    for seed in range(3):
        folder.add("sft-continued", seed, axis=LONGER, effect=-0.1, groups=("lab",))
    assert "not at its plateau" not in said(why(read(folder)))
    for seed in range(3):
        folder.add("sft-continued", seed, axis=LONGER, effect=0.2, groups=("lab",))
    assert "SFT was not at its plateau" in said(why(read(folder)))


def test_best_and_final_checkpoints_stand_beside_each_other(folder):
    evidence = read(folder)
    assert checkpoints(evidence) == []
    for seed, cell in evidence.runs("raddpo").items():
        last = 0.4 if seed else 0.6
        cell.facts["train"]["valid"] = [
            {"step": s, "recall@8": r} for s, r in ((0, 0.3), (60, 0.5), (120, last))
        ]
    table = checkpoints(evidence)[1]
    assert re.search("RAD-DPO", str(table.rows[0][0]))
    assert table.rows[0][-1] == "1 of 3"
    assert [entry.text for entry in table.rows[0][1:4]] == [".300", ".533", ".467"]
