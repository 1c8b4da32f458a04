"""What counts for the evidence page (void cells, cells not run, tuning), and how it is rendered."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evidence_cells import Folder, main_cells, read, write

from experiments.raddpo.report import registration_hash
from experiments.raddpo.report.compare import against, compare, levels
from experiments.raddpo.report.contrast import difference

ROOT = Path(__file__).resolve().parents[2]
MRR = "click.sid.mrr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return main_cells(Folder(tmp_path_factory.mktemp("evidence")))


@pytest.fixture(scope="module")
def evidence(folder):
    return read(folder)


# ---------------------------------------------------------------------- what counts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bed": {"simulator": "00" * 32, "lexicon": "cd" * 32}}, "another simulator"),
        ({"bed": {"simulator": "ab" * 32, "lexicon": "00" * 32}}, "another lexicon"),
        ({"registration": "0" * 64}, "another registration"),
        ({"registration": None}, "another registration"),
    ],
)
def test_a_void_cell_is_listed_and_left_out(tmp_path, change, reason):
    folder = Folder(tmp_path)
    folder.add("sft-continued", 0)
    folder.add("raddpo", 0, effect=0.02)
    folder.add("sft-continued", 1)
    folder.add("raddpo", 1, effect=0.9, **change)
    found = read(folder)
    assert reason in found.void["raddpo.s1"]
    (result,) = compare(found, [difference("raddpo", "sft-continued", MRR)])
    assert list(result.seeds) == [0]
    assert result.test.effect < 0.1
    assert not found.not_run  # it has a file
    page, _ = write(folder)
    assert re.search(rf"\| `raddpo\.s1` \| made under {reason}", page)


def test_changing_the_registration_voids_every_cell(tmp_path):
    folder = main_cells(Folder(tmp_path), seeds=1)
    before = registration_hash(folder.rules)
    folder.rules.write_text(folder.rules.read_text().replace("alpha: 0.05", "alpha: 0.5"))
    assert registration_hash(folder.rules) != before
    found = read(folder)
    assert not found.cells
    assert len(found.void) == len(folder.planned)
    page, _ = write(folder)
    assert "0 cells count" in page
    assert "not run" in page


def test_the_registration_hash_is_the_one_that_cells_are_stamped_with():
    from experiments.raddpo import registration

    assert (
        registration_hash(ROOT / "experiments/raddpo/registration.yaml")
        == registration.registration_hash()
    )


def test_a_planned_cell_without_a_file_is_not_run(tmp_path):
    folder = main_cells(Folder(tmp_path), seeds=2)
    folder.plan("raddpo@n=7.s0", "raddpo", 0)
    folder.plan("raddpo@n=7.s1", "raddpo", 1)
    page, _ = write(folder)
    assert "| `raddpo@n=7` | 0, 1 |" in page
    cells = len(folder.planned) - 2
    assert f"{cells} cells count" in page
    assert "0 are void; 2 were planned and not run" in page


def test_values_of_unknown_queries_are_refused(tmp_path):
    folder = Folder(tmp_path)
    folder.add("sft", 0, kind="sft")
    path = folder.loose / "sft.s0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["query_id"] = "stranger"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ValueError, match=r"sft\.s0 has query 'stranger' of day8"):
        levels(read(folder), "sft", [MRR])


def test_tuning_runs_stand_in_their_section_only(tmp_path):
    folder = main_cells(Folder(tmp_path), seeds=1)
    for value, rate in ((0.41, 0.1), (0.43, 0.3)):
        facts = {"figures": {"day7.click.sid.mrr": value}, "axes": {"lr_new": rate, "beta": 1.0}}
        folder.add(
            "raddpo", None, axis=f"lr_new={rate}.tune", groups=("tune",), effect=0.9, **facts
        )
    found = read(folder)
    assert not found.variants("lr_new")
    assert list(found.runs("raddpo")) == [0]
    page, _ = write(folder)
    assert "| RAD-DPO (softmax) | lr_new 0.3, beta 1 | **.4300** |" in page
    assert "| RAD-DPO (softmax) | lr_new 0.1, beta 1 | .4100 |" in page


# ---------------------------------------------------------------------- the page


def test_the_page_prints_what_was_computed(folder, evidence):
    page, html = write(folder)
    r = against(evidence, "sft-continued", MRR)["raddpo"]
    shown = f"+{r.test.effect:.4f}".replace("+0.", "+.")
    assert f"| RAD-DPO (softmax) | {shown} *" in page
    assert shown in html
    titles = re.findall(r"^## (.*)", page, re.MULTILINE)
    assert len(titles) == 14
    assert titles[0] == "Headroom"  # before any table of methods or verdicts


def test_markdown_tables_are_tables(folder):
    page, html = write(folder)
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(blocks) > 40
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block[:300]
    assert html.count("<table") == len(blocks)


def test_verdicts_are_marked_in_the_html(folder):
    _, html = write(folder)
    assert '<strong class="mark holds">holds</strong>' in html
    assert '<strong class="mark fails">does not hold</strong>' in html


def test_the_html_loads_nothing_and_is_small(folder):
    _, html = write(folder)
    assert not re.search(r"<script|<link|@import|url\(|src=|https?://", html)
    assert len(html.encode()) < 1_500_000


def test_the_page_is_the_same_every_time(folder):
    assert write(folder) == write(folder)


def test_a_page_without_any_cell_says_so(tmp_path):
    folder = Folder(tmp_path)
    folder.plan("raddpo.s0", "raddpo", 0)
    page, _ = write(folder)
    assert "**holds**" not in page.replace("**Holds**", "")
    assert "1 were planned and not run" in page
