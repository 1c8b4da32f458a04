"""What was registered, and the cells that follow from it."""

import json
from pathlib import Path

from benchmarks.evidence import registration
from benchmarks.evidence.plan import Cell, align_cell, cells, sft_parent


def test_the_cells_of_the_plan_fit_together():
    found = cells("full")
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    for cell in found:
        assert set(cell.needs) <= set(names), cell.name
        assert Cell.of(json.loads(json.dumps(cell.spec))) == cell
        parent = sft_parent(cell)
        assert (parent and parent.name) == cell.parent
    seeds = registration.registration()["bed"]["seeds"]
    core = cells("core")
    for system in ("sft", "sft-continued", "raddpo"):
        assert len({c.seed for c in core if c.system == system and "table1" in c.groups}) >= max(seeds["headline"], 5)
    for system in {c.system for c in core if c.kind == "align" and c.axes["head"] == "level"}:
        assert len({c.seed for c in core if c.system == system}) >= 3


def test_every_method_has_the_same_number_of_tuning_runs():
    tuned = cells("tune")
    counts = {cell.system: sum(other.system == cell.system for other in tuned) for cell in tuned}
    assert set(counts.values()) == {4}
    assert all(cell.pools == ("day7",) for cell in tuned)


def test_axes_change_what_they_name():
    assert align_cell("raddpo", 0, (), n=7).config["preference"] == {"max_negatives": 7}
    assert align_cell("raddpo", 0, (), lists=3840).config["align"]["steps"] == 240
    assert align_cell("raddpo", 0, (), noise=0.25).data == "noise-0.25"
    assert align_cell("dpo", 1, (), head="full").parent == "sft@head=full.s1"


def test_a_denoiser_of_the_lists_takes_the_place_of_rdrw():
    for system, variant in (("raddpo-truth", "truth"), ("raddpo-skip-above", "skip-above"), ("raddpo-ips", "ips")):
        cell = align_cell(system, 0, ())
        assert cell.data == variant
        assert cell.config["align"]["rdrw"] is False
    assert "rdrw" not in align_cell("raddpo", 0, ()).config["align"]


def test_the_simulator_is_the_registered_one():
    """Frozen: a change of simulator.yaml or lexicon.yaml voids every number of the evidence."""
    registration.check_frozen()


def test_all_committed_cells_belong_to_the_registration():
    for path in sorted(Path(registration.RESULTS).glob("*.json")):
        found = json.loads(path.read_text())
        assert found["registration"] == registration.registration_hash(), path.name
        assert found["bed"]["simulator"] == registration.registration()["simulator"]["hash"], path.name
