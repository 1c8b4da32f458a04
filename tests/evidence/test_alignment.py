"""The alignment bed on a toy registration: cells are run, resumed and run again, and the page's
figures are those of the kept cells.
"""

import json

import pytest
import yaml
from toy_evidence import CHANGES

from experiments.alignment.bed import HERE, RESULTS, Bed, register, shop
from experiments.alignment.plan import CONTROL, align_cell, cells, methods, sft_cell
from experiments.alignment.rerun import rerun
from experiments.alignment.run import run
from experiments.alignment.tables import (
    FIGURES,
    PAGE,
    PICTURE,
    Kept,
    figures,
    fill,
    picture,
    stacked,
)
from experiments.raddpo import registration
from experiments.raddpo.registration import check_frozen
from experiments.raddpo.report.prose import TIED, untied
from experiments.raddpo.store import read_cells

TINY = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 128}
STEPS = {"steps": 4, "batch_size": 8, "validate_every": 1, "checkpoint_every": 4, "log_every": 1}


@pytest.fixture
def registered():
    """The registration of the experiment, and afterwards that which was in force."""
    before = registration.registration_file()
    register()
    yield registration.registration()
    registration.use(before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of a finished toy run of SFT and two rows at one seed."""
    from sidar import simulate

    folder = tmp_path_factory.mktemp("alignment")
    said = yaml.safe_load((HERE / "registration.yaml").read_text())
    changes = {**CHANGES, "queries": {"count": 150}}
    hash = simulate.load_config("busy", **changes).hash
    said["simulator"] |= {"changes": changes, "hash": hash}
    said["bed"] |= {
        "codebooks": [32, 16, 8],
        "requests": {"click": 12, "order": 4, "random": 4},
        "tune_requests": 8,
        "invalid": 3,
        "beam": 16,
        "settings": {
            "embed": {"model": "hashing:64"},
            "memory": {"requests": 20},
            "lm": {**TINY, "max_prompt_tokens": 24, "text_embeddings": "random"},
            "sft": {**STEPS, "valid_requests": 8},
            "align": {**STEPS, "valid_requests": 8, "rdrw_window": 16},
        },
    }
    path = folder / "registration.yaml"
    path.write_text(yaml.safe_dump(said))
    before = registration.registration_file()
    registration.use(path)
    assert run(toy_cells(), folder / "work", folder / "results", print) == 3
    yield folder
    registration.use(before)


def toy_cells():
    return [sft_cell(0), align_cell(CONTROL, 0, "core", {}), align_cell("raddpo", 0, "core", {})]


def test_the_simulator_is_the_registered_one(registered):
    check_frozen()
    assert 1400 < len(shop()) < 1600
    assert registered["simulator"]["preset"] == "busy"


def test_core_has_every_method_of_a_seed_before_the_next_seed(registered):
    planned = cells("core")
    rows = 1 + len(methods("core"))
    assert len(planned) == rows * registered["bed"]["seeds"]["headline"]
    assert [cell.seed for cell in planned] == sorted(cell.seed for cell in planned)
    assert planned[0].kind == "sft"
    assert {cell.parent for cell in planned[1:rows]} == {planned[0].name}


def test_every_method_is_tuned_with_as_many_runs(registered):
    counts = {}
    for cell in cells("tune"):
        counts[cell.system] = counts.get(cell.system, 0) + 1
        assert cell.pools == ("day7",)
        align = cell.config["align"]
        ratio = registered["tuning"]["lr_pretrained_ratio"]
        assert align["lr_pretrained"] == pytest.approx(align["lr_new"] * ratio)
    assert set(counts) == set(methods("core"))
    assert all(len(grid) == 4 for grid in registered["tuning"]["grid"]["all"].values())
    assert len(set(counts.values())) == 1


def test_finished_cells_are_not_run_again_and_their_values_are_kept(toy):
    assert run(toy_cells(), toy / "work", toy / "results", print) == 0
    kept = read_cells(toy / "results")
    assert set(kept) == {cell.name for cell in toy_cells()}
    for facts in kept.values():
        for name in ("click.sid.mrr", "utility.item.ndcg@10", "answer.click.item.ndcg@10"):
            assert 0 <= facts["figures"][f"day8.{name}"] <= 1
        assert 0 < facts["figures"]["day8.invalid.mass"] < 1
    assert len(kept["sft.s0"]["train"]["valid"]) == STEPS["steps"]


def test_a_cell_that_is_run_again_is_equal_to_the_last_bit(toy, capsys):
    assert rerun("raddpo.s0", toy / "work", toy / "results") == 0
    assert "every figure and value is equal" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no kept cell is named 'nobody'"):
        rerun("nobody", toy / "work", toy / "results")


def test_figures_are_means_of_paired_values(toy):
    found, kept = figures(toy / "results"), Kept(toy / "results")
    name = f"difference; raddpo − {CONTROL}; click.item.ndcg@10"
    values, clusters, by_seed = stacked(kept, "raddpo", CONTROL, "click.item.ndcg@10")
    assert len(values) == len(clusters) == 12
    assert found[name] == pytest.approx(values.mean()) == pytest.approx(by_seed[0])
    assert found[f"{name}; word"] == "cannot tell here"  # one seed is none
    levels = [found[f"level; {row}; click.item.ndcg@10"] for row in ("raddpo", CONTROL)]
    assert found[name] == pytest.approx(levels[0] - levels[1])
    assert found["cells; run"] == 3
    asked = f"+.9999 (+.1 … +.10)<!-- {name} --> of .1<!-- given -->"
    shown = f"{found[name]:+.4f}".replace("0.", ".", 1).replace("-", "−")
    assert fill(asked, found).startswith(shown)


def test_the_bed_has_no_judged_queries(toy):
    cfg = Bed(toy / "work").config()
    assert cfg.data.held_out == []
    assert cfg.evaluate.sets == []


@pytest.fixture
def kept_figures(registered):
    return json.loads((RESULTS / FIGURES).read_text(encoding="utf-8"))


def test_the_kept_figures_are_those_of_the_kept_cells(kept_figures):
    found = figures(RESULTS)
    assert found.keys() == kept_figures.keys()
    for name, value in found.items():
        assert kept_figures[name] == pytest.approx(value), name


def test_every_number_of_the_page_is_the_figure_that_it_names(kept_figures):
    page = PAGE.read_text(encoding="utf-8")
    again = fill(page, kept_figures)
    for was, now in zip(page.splitlines(), again.splitlines(), strict=True):
        assert was == now, "run `python -m experiments.alignment page`"
    assert len(list(TIED.finditer(page))) == page.count("<!--") > 40
    assert untied(page) == []
    assert len(page.splitlines()) <= 250
    drawn = picture(kept_figures).standalone()
    assert (PAGE.parent / "images" / f"{PICTURE}.svg").read_text(encoding="utf-8") == drawn
