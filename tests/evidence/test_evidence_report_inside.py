"""Hallucination on free beams beside exact mass, squeezing and oscillation: words only where seeds
allow them.
"""

import json

import pytest
from evidence_cells import Folder, main_cells, write


@pytest.fixture
def folder(tmp_path):
    return main_cells(Folder(tmp_path))


def line_of(text, start):
    return next(x for x in text.splitlines() if x.startswith(f"| {start}"))


def test_more_invalid_output_is_called_higher_and_not_a_claim_that_holds(folder):
    page, _ = write(folder)
    part = page[page.index("## 6. Hallucination") :]
    for table in ("exact invalid mass (lower", "invalid share, free beam of 128 (lower"):
        text = part[part.index(f"| {table}") :]
        assert "**higher**" in line_of(text, "DPO − SFT")
    assert "on the free beam: **holds**" in part
    assert "Against SFT: exact invalid mass: 4 higher, " in part


def test_one_seed_never_says_that_positives_fell(folder):
    page, _ = write(folder)
    assert line_of(page[page.index("### Squeezing") :], "DPO |").endswith("| fell |")
    for seed in (1, 2):
        path = folder.results / f"dpo.s{seed}.json"
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "mechanism": {}}))
    page, _ = write(folder)
    line = line_of(page[page.index("### Squeezing") :], "DPO |")
    assert line.startswith("| DPO | 1 |")
    assert line.endswith("| cannot tell here |")


def test_oscillation_is_compared_seed_by_seed(folder):
    for seed, value in enumerate((0.01, 0.02, 0.03)):
        folder.add("raddpo", seed, train={"oscillation": value, "gradient_ratio": 0.3})
        folder.add(
            "raddpo-no-tlgd", seed, train={"oscillation": value + 0.005, "gradient_ratio": 0.3}
        )
    folder.add("raddpo", 3, train={"oscillation": 0.9, "gradient_ratio": 0.3})
    page, _ = write(folder)
    assert "seed by seed: −.0050, −.0050, −.0050 (lower in every seed)" in page
    mechanisms = page[page.index("## 7. Mechanisms") :]
    # the fourth seed has no fellow
    assert ".020 (.010 … .030)" in line_of(mechanisms, "RAD-DPO (softmax)")
