"""docs/evidence.md: each number names its result and is that result."""

import pytest
from evidence_cells import Folder, main_cells, read

from experiments.raddpo.registration import RESULTS
from experiments.raddpo.report import read_kept
from experiments.raddpo.report.compare import compare
from experiments.raddpo.report.contrast import difference
from experiments.raddpo.report.picture import NAME, picture
from experiments.raddpo.report.prose import PAGE, TIED, answer, fill, shown, untied

MRR = "click.sid.mrr"


@pytest.fixture(scope="module")
def kept():
    return read_kept(RESULTS)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return read(main_cells(Folder(tmp_path_factory.mktemp("prose"))))


def test_every_number_of_the_page_is_the_result_that_it_names(kept):
    page = PAGE.read_text(encoding="utf-8")
    again = fill(page, kept)
    for was, now in zip(page.splitlines(), again.splitlines(), strict=True):
        assert was == now, "run `python -m experiments.raddpo page`"
    tied = list(TIED.finditer(page))
    assert len(tied) == page.count("<!--") > 80  # no comment has lost its number


def test_no_number_of_the_page_is_without_a_result():
    page = PAGE.read_text(encoding="utf-8")
    assert untied(page) == []
    assert len(page.splitlines()) <= 250


def test_the_picture_is_drawn_from_the_results(kept):
    drawn = picture(kept).standalone()
    assert (PAGE.parent / "images" / f"{NAME}.svg").read_text(encoding="utf-8") == drawn


def test_the_cells_that_lost_their_commit_are_those_that_the_page_names(kept):
    shipped = [name for name in kept.cells if "bed=shipped" in name]
    assert len(shipped) == 9
    assert "the nine cells of the shipped setting" in PAGE.read_text().replace("\n", " ")


def test_questions_are_answered_from_the_cells(evidence):
    (result,) = compare(evidence, [difference("raddpo", "sft-continued", MRR)])
    asked = f"difference; raddpo − sft-continued; {MRR}"
    assert answer(evidence, asked) == result.test.effect
    assert answer(evidence, f"{asked}; low") == result.test.low
    assert answer(evidence, f"claim; beats-sft-continued; {MRR}; word") == "holds"
    assert answer(evidence, f"twins; dpo+sft − dpo; {MRR}; word") == "not run"
    assert answer(evidence, f"methods; dpo − sft-continued; {MRR}") < 0
    assert answer(evidence, "probe; raddpo; rdrw/eos_out/auc") == pytest.approx(0.62, abs=0.05)
    assert answer(evidence, "cells; void") == 0
    judged = answer(evidence, "alone; raddpo − bm25; item.ndcg@10; on; judged_test")
    assert judged != answer(evidence, "alone; raddpo − bm25; item.ndcg@10; on; grounded_test")
    with pytest.raises(ValueError, match="was not run"):
        answer(evidence, f"twins; dpo+sft − dpo; {MRR}")
    with pytest.raises(KeyError):
        answer(evidence, f"twins; raddpo − nobody; {MRR}")


def test_a_page_keeps_its_authors_form(evidence):
    asked = f"difference; raddpo − sft-continued; {MRR}"
    page = (
        f"gains +.9999 (+.1 … +.10)<!-- {asked} -->, 99 %<!-- {asked} -->, "
        f"**does not hold**<!-- claim; beats-sft-continued; {MRR}; word --> at .5<!-- given -->."
    )
    (result,) = compare(evidence, [difference("raddpo", "sft-continued", MRR)])
    t = result.test
    interval = f"+{t.effect:.4f} (+{t.low:.1f} … +{t.high:.2f})".replace("0.", ".")
    expected = page.replace("+.9999 (+.1 … +.10)", interval)
    expected = expected.replace("99 %", f"{100 * t.effect:.0f} %").replace("does not hold", "holds")
    assert fill(page, evidence) == expected
    assert fill(expected, evidence) == expected
    assert (shown(-0.04996, "+.0000", ""), shown(1234.4, "1,000", "")) == ("−.0500", "1,234")


def test_a_number_without_a_result_is_found():
    text = "It gains +.02 and 3.5 of 7, nDCG@10 `1.5`, −7<!-- given --> (arXiv 2602.23964)."
    assert untied(text) == ["+.02", "3.5"]
