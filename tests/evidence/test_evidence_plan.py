"""What was registered, and the cells that follow from it."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.raddpo import registration
from experiments.raddpo.bed import Bed
from experiments.raddpo.plan import Cell, align_cell, cells, sft_parent, shipped
from experiments.raddpo.store import read_cells
from sidar.config import Config


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
        assert len({c.seed for c in core if c.system == system and "table1" in c.groups}) >= max(
            seeds["headline"], 5
        )
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


def test_the_shipped_cells_are_the_defaults_of_alignment():
    """A default that changes leaves the shipped RAD-DPO without a cell of evidence."""
    found = shipped(range(3))
    aligned = [cell for cell in found if cell.system == "raddpo"]
    assert len(aligned) == 3
    assert {cell.name for cell in found} <= {cell.name for cell in cells("full")}
    settings = Bed(Path("bed")).config(**aligned[0].config).resolved()
    defaults = Config().resolved()
    cadence = {"label", "validate_every", "checkpoint_every", "log_every"}
    assert settings.align.model_dump(exclude=cadence) == defaults.align.model_dump(exclude=cadence)
    assert settings.preference == defaults.preference


def test_a_denoiser_of_the_lists_takes_the_place_of_rdrw():
    for system, variant in (
        ("raddpo-truth", "truth"),
        ("raddpo-skip-above", "skip-above"),
        ("raddpo-ips", "ips"),
    ):
        cell = align_cell(system, 0, ())
        assert cell.data == variant
        assert cell.config["align"]["rdrw"] is False
    assert "rdrw" not in align_cell("raddpo", 0, ()).config["align"]


def test_the_simulator_is_the_registered_one(tmp_path):
    """Frozen: a change of simulator.yaml or lexicon.yaml voids every number of the evidence, and
    stops every run.
    """
    before, registered = registration.registration_file(), registration.registration()
    assert registration.simulator_hashes() == {
        name: registered["simulator"][name] for name in ("hash", "lexicon")
    }
    registration.check_frozen()
    try:
        for name, changed in (("hash", "hash"), ("lexicon", "lexicon"), ("preset", "hash")):
            other = "demo" if name == "preset" else "0" * 64
            wrong = {**registered, "simulator": {**registered["simulator"], name: other}}
            (tmp_path / "registration.yaml").write_text(yaml.safe_dump(wrong))
            registration.use(tmp_path / "registration.yaml")
            with pytest.raises(
                ValueError, match=rf"^the simulator's {changed} differ from registration\.yaml"
            ):
                registration.check_frozen()
    finally:
        registration.use(before)


def test_all_committed_cells_belong_to_the_registration():
    kept = read_cells(registration.RESULTS)
    assert len(kept) > 300
    for name, found in kept.items():
        assert found["registration"] == registration.registration_hash(), name
        assert found["bed"]["simulator"] == registration.registration()["simulator"]["hash"], name
