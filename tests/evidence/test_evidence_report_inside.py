"""Hallucination on free beams beside exact mass, squeezing and oscillation: words only where seeds
allow them.
"""

import json

import pytest
from evidence_cells import Folder, main_cells, read, write

from experiments.raddpo.report.families import family
from experiments.raddpo.report.show import all_words
from experiments.raddpo.report.tables_inside import (
    above_half,
    first_seeds,
    oscillation_apart,
    others_moved,
)


@pytest.fixture
def folder(tmp_path):
    return main_cells(Folder(tmp_path))


def line_of(text, start):
    return next(x for x in text.splitlines() if x.startswith(f"| {start}"))


def test_more_invalid_output_is_called_higher_and_not_a_claim_that_holds(folder):
    page, _ = write(folder)
    part = page[page.index("## Hallucination") :]
    for metric in ("invalid.mass", "invalid.free@128"):
        text = part[part.index(f"### Less SFT: {metric}") :]
        assert "**higher**" in line_of(text, "DPO |")
    steps = family(read(folder), "order of harm", "invalid.free@128").values()
    assert all_words(steps) == "**holds**"


def test_one_seed_never_says_that_positives_fell(folder):
    assert others_moved(first_seeds(read(folder), "dpo")) == "fell"
    for seed in (1, 2):
        path = folder.loose / f"dpo.s{seed}.json"
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "mechanism": {}}))
    assert others_moved(first_seeds(read(folder), "dpo")) == "cannot tell here"
    page, _ = write(folder)
    line = line_of(page[page.index("### Squeezing") :], "DPO |")
    assert line.startswith("| DPO | 1 |")
    assert line.endswith("| cannot tell here |")
    assert others_moved({}) == ""


def test_oscillation_is_compared_seed_by_seed(folder):
    for seed, value in enumerate((0.01, 0.02, 0.03)):
        folder.add("raddpo", seed, train={"oscillation": value, "gradient_ratio": 0.3})
        folder.add(
            "raddpo-no-tlgd", seed, train={"oscillation": value + 0.005, "gradient_ratio": 0.3}
        )
    folder.add("raddpo", 3, train={"oscillation": 0.9, "gradient_ratio": 0.3})
    apart = oscillation_apart(read(folder))  # the fourth seed has no fellow
    assert apart == pytest.approx({0: -0.005, 1: -0.005, 2: -0.005})
    page, _ = write(folder)
    mechanisms = page[page.index("## Mechanisms") :]
    assert ".020 *.010 … .030*" in line_of(mechanisms, "RAD-DPO (softmax)")


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        ([0.51, 0.52, 0.53], [0.6, 0.6, 0.6], "holds"),
        ([0.4, 0.4, 0.4], [0.49, 0.49, 0.49], "does not hold"),
        ([0.49, 0.52, 0.53], [0.6, 0.6, 0.6], "cannot tell here"),
        ([0.51, 0.52], [0.6, 0.6], "cannot tell here"),
        ([], [], "not run"),
    ],
)
def test_an_auc_is_above_a_half_only_where_every_seed_says_so(low, high, word):
    assert above_half(low, high) == word
