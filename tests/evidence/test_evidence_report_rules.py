"""The rules of the page: families as planned, seeds that agree, room above SFT, equal seeds in
every row of a table.
"""

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import pytest
from evidence_cells import Folder, main_cells, read, write

from experiments.raddpo.report.compare import against, compare, room
from experiments.raddpo.report.contrast import difference, per_query
from experiments.raddpo.report.families import at_equal_rates, family, pick
from experiments.raddpo.report.show import base_rows, level_table, signed
from sidar.evaluate.stats import holm, smallest_detectable

MRR = "click.sid.mrr"


def line_of(page, start):
    return next(x for x in page.splitlines() if x.startswith(f"| {start}"))


# ---------------------------------------------------------------------- families


def test_a_planned_method_that_is_not_run_counts_with_p_1_in_holm_and_in_what_could_be_seen(
    tmp_path,
):
    folder = main_cells(Folder(tmp_path))
    whole = against(read(folder), "sft-continued", MRR)
    for name in ("simpo", "orpo"):
        for path in folder.loose.glob(f"{name}.s*"):
            path.unlink()
    part = against(read(folder), "sft-continued", MRR)
    assert part["simpo"].test is None
    kept = ("sft", "raddpo", "dpo")
    expected = holm([whole[s].test.p for s in kept] + [1.0, 1.0])[:3]
    assert [part[s].p for s in kept] == pytest.approx(expected)
    for s in kept:
        assert part[s].test == whole[s].test
        assert part[s].detectable == whole[s].detectable  # as many members as were planned


def test_what_could_be_seen_is_corrected_for_the_family(tmp_path):
    evidence = read(main_cells(Folder(tmp_path)))
    contrast = difference("raddpo", "sft-continued", MRR)
    rows, clusters, _, _ = per_query(evidence, contrast)
    (alone,) = compare(evidence, [contrast])
    of_five = against(evidence, "sft-continued", MRR)["raddpo"]
    assert alone.detectable == pytest.approx(smallest_detectable(rows, clusters))
    assert of_five.detectable == pytest.approx(smallest_detectable(rows, clusters, alpha=0.05 / 5))
    assert of_five.detectable > alone.detectable


def test_a_comparison_that_nobody_planned_is_not_in_the_family(tmp_path):
    evidence = read(main_cells(Folder(tmp_path)))
    found = compare(
        evidence, [difference("raddpo", "sft", MRR), difference("raddpo", "nobody", MRR)]
    )
    (alone,) = compare(evidence, [difference("raddpo", "sft", MRR)])
    assert found[0].p == alone.p


# ---------------------------------------------------------------------- words


def test_a_significant_effect_that_one_seed_turns_has_no_verdict(tmp_path):
    folder = Folder(tmp_path)
    for seed, effect in enumerate((0.06, 0.06, -0.02)):
        folder.add("sft-continued", seed, held_out=False)
        folder.add("raddpo", seed, effect=effect, held_out=False)
        folder.add("dpo", seed, effect=abs(effect), held_out=False)
    evidence = read(folder)
    turned, agreed = compare(
        evidence, [difference(s, "sft-continued", MRR) for s in ("raddpo", "dpo")]
    )
    assert turned.significant
    assert turned.word == "cannot tell here"
    assert agreed.word == "holds"
    assert (
        compare(evidence, [difference("raddpo", "sft-continued", MRR, sign="0")])[0].met == "open"
    )


def test_rows_without_any_difference_are_identical_and_have_no_detectable_effect(tmp_path):
    folder = Folder(tmp_path)
    for seed in (0, 1, 2):
        weights = {"judged_test": {"weights": [0.6, 0.4, 0.0], "method": "weighted"}}
        for system in ("sft", "sft-continued", "raddpo"):
            kind = "sft" if system == "sft" else "align"
            folder.add(system, seed, kind=kind, effect=0.0, noise_sd=0.0, fusion=weights)
    (result,) = compare(read(folder), [difference("raddpo", "sft", MRR)])
    assert result.word == "identical"
    assert np.isnan(result.detectable)
    page, _ = write(folder)
    line = line_of(page, "RAD-DPO (softmax) fused − SFT fused")
    assert line == (
        "| RAD-DPO (softmax) fused − SFT fused | 0 | – | – | – | – | – | weight 0 chosen on dev |"
    )
    # no weights are told there
    grounded = family(read(folder), "fused", "item.ndcg@10", "grounded_test")
    assert grounded["RAD-DPO (softmax) fused − SFT fused"].word == "identical"
    assert "| RAD-DPO (softmax) | 2 | BM25 / dense, fine-tuned / model | .60 / .40 / .00 |" in page


# ---------------------------------------------------------------------- room


def reachable(folder, gain):
    for path in folder.loose.glob("sft.s*.parquet"):
        table = pq.read_table(path)
        values = table.column(MRR).to_numpy()
        pq.write_table(table.append_column(f"reachable.{MRR}", [np.float32(values + gain)]), path)


@pytest.mark.parametrize(("gain", "word"), [(0.001, "cannot tell here"), (0.2, "holds")])
def test_without_room_above_sft_there_is_no_verdict(tmp_path, gain, word):
    folder = main_cells(Folder(tmp_path))
    folder.add("oracle-utility", kind="ceiling", groups=("baselines",), effect=0.25, held_out=False)
    reachable(folder, gain)
    evidence = read(folder)
    found = room(evidence, MRR)
    assert found.least == pytest.approx(gain, abs=1e-4)  # the smaller of the two
    assert found.enough == (gain > 0.1)
    result = against(evidence, "sft-continued", MRR)["raddpo"]
    assert (result.significant, result.word) == (True, word)
    # Item level has the utility oracle alone, and room.
    assert against(evidence, "sft-continued", "click.item.ndcg@10")["raddpo"].word == "holds"
    page, _ = write(folder)
    line = line_of(page[page.index("### Room") :], "SID MRR (click)")
    assert ("**no verdict, for want of room**" in line) == (gain < 0.1)
    assert "SFT's beam by true utility (reachable)" in page
    assert page.index("## Headroom") < page.index("## The registered claims")


# ---------------------------------------------------------------------- tables


def test_a_table_of_levels_averages_the_same_seeds_in_every_row(tmp_path):
    folder = Folder(tmp_path)
    for seed in range(4):
        folder.add("sft", seed, kind="sft", effect=0.3 if seed == 3 else 0.0, held_out=False)
    for seed in range(3):
        folder.add("dpo", seed, held_out=False)
    evidence = read(folder)
    table = level_table(evidence, base_rows(["sft", "dpo"]), [MRR])
    assert [r[1] for r in table.rows] == ["3", "3"]
    assert float(table.rows[0][2].split()[0]) < 0.5
    assert "every row has (0, 1, 2)" in table.note
    assert level_table(evidence, base_rows(["sft"]), [MRR]).note == ""
    # A row that has only begun shows what it has, and leaves the others theirs.
    folder.add("simpo", 0, held_out=False)
    table = level_table(read(folder), base_rows(["sft", "dpo", "simpo"]), [MRR])
    assert [r[1] for r in table.rows] == ["3", "3", "1"]


def test_the_papers_table_is_beside_paired_differences_of_equal_seeds(tmp_path):
    folder = main_cells(Folder(tmp_path))
    folder.add("sft", 3, kind="sft", effect=0.9)  # a seed that DPO does not have
    page, _ = write(folder)
    (result,) = compare(read(folder), [difference("dpo", "sft", MRR)])
    t = result.test
    part = page[page.index("### Beside the paper") :]
    assert f"{signed(t.effect)} *{signed(t.low)} … {signed(t.high)}*" in line_of(part, "DPO")


def test_the_gain_with_rows_is_an_interaction_with_sft_continued(tmp_path):
    folder = Folder(tmp_path)
    for seed in (0, 1, 2):
        for axis, effect in (("lists=960", 0.0), ("lists=7680", 0.1)):
            folder.add("sft-continued", seed, axis=axis, effect=effect, held_out=False)
            folder.add("raddpo", seed, axis=axis, effect=effect, held_out=False)
    (name,) = (asked := family(read(folder), "lists", MRR))
    assert name == "RAD-DPO (softmax): 7680 − 960"
    assert asked[name].word == "cannot tell here"  # both gain alike
    for seed in (0, 1, 2):
        folder.add("raddpo", seed, axis="lists=7680", effect=0.2, held_out=False)
    assert family(read(folder), "lists", MRR)[name].word == "holds"


def test_the_ladder_has_a_rung_at_the_methods_own_rate_where_it_is_planned(tmp_path):
    folder = main_cells(Folder(tmp_path))
    rung = "SFT continued (lr_new 3e-05) − SFT continued"
    assert rung not in family(read(folder), "ladder", MRR)
    assert at_equal_rates(read(folder), MRR) is None
    for seed in range(3):
        folder.add(
            "sft-continued",
            seed,
            axis="lr_new=3e-05",
            effect=0.05,
            groups=("ladder",),
            held_out=False,
        )
    evidence = read(folder)
    ladder = family(evidence, "ladder", MRR)
    assert ladder[rung].word == "holds"
    assert "SFT + contrast only − SFT continued (lr_new 3e-05)" in ladder
    assert at_equal_rates(evidence, MRR) == list(ladder.values())[-1]
    assert at_equal_rates(evidence, MRR).test.effect < 0


def test_noise_is_tested_on_recall_and_told_as_it_was_trained_on(tmp_path):
    folder = main_cells(Folder(tmp_path))
    for seed in range(3):
        folder.add("raddpo", seed, axis="noise=0.5", held_out=False, lists={"relevant_share": 0.62})
        folder.add("raddpo-no-rdrw", seed, axis="noise=0.5", effect=-0.1, held_out=False)
    page, _ = write(folder)
    assert "| 0.5 | .620 |" in page
    results = family(read(folder), "noise", "click.sid.recall@8")
    assert results["RAD-DPO (softmax) (noise 0.5) − w/o RDRW (noise 0.5)"].word == "holds"


def test_the_denoisers_are_asked_again_where_alignment_is_longer(tmp_path):
    folder = main_cells(Folder(tmp_path))
    assert family(read(folder), "dose", MRR) == {}
    setting = "lists=9600,lr_new=9e-05"
    for seed in range(3):
        for system, effect in (("raddpo", 0.1), ("raddpo-no-rdrw", 0.0), ("raddpo-truth", 0.1)):
            folder.add(system, seed, axis=setting, effect=effect, held_out=False, groups=("dose",))
        folder.add(
            "raddpo",
            seed,
            axis=f"noise=0.5,{setting}",
            effect=0.0,
            held_out=False,
            groups=("dose",),
        )
        folder.add(
            "raddpo-no-rdrw",
            seed,
            axis=f"noise=0.5,{setting}",
            effect=0.1,
            held_out=False,
            groups=("dose",),
        )
    results = family(read(folder), "dose", "utility.sid.ndcg@10").values()
    noisy = f"noise=0.5,{setting}"
    pairs = [(("raddpo", variant), ("raddpo-no-rdrw", variant)) for variant in (setting, noisy)]
    assert [pick(results, *pair).word for pair in pairs] == ["holds", "does not hold"]
    assert "| w/o RDRW, half relevant |" in write(folder)[0]


def test_skip_above_tells_how_many_lists_it_empties(tmp_path):
    folder = main_cells(Folder(tmp_path))
    counts = {"counts": {"lists": 200, "lists_without_negatives": 50}}
    folder.add("raddpo-skip-above", 0, train=counts, held_out=False)
    assert "| lists that skip-above leaves without a negative | .250 |" in write(folder)[0]


def test_the_full_head_is_compared_and_marked_as_one_seed(tmp_path):
    folder = main_cells(Folder(tmp_path))
    for system, mass in (("sft", 0.1), ("raddpo", 0.2), ("dpo", 0.4)):
        kind = "sft" if system == "sft" else "align"
        folder.add(system, 0, axis="head=full", kind=kind, mass=mass, held_out=False)
    index = {"n_sids": 6150, "density": 0.0004, "uniform_invalid_mass": 0.9996}
    folder.add("sft", 0, kind="sft", index=index)
    page, _ = write(folder)
    part = page[page.index("One head over all codes") : page.index("## Mechanisms")]
    # however large: one seed decides nothing
    assert "cannot tell here" in line_of(part, "DPO (head full) − RAD-DPO (softmax) (head full)")
    assert "**One seed**" in part
    assert "| uniform model | 0.9996 |" in page


# ---------------------------------------------------------------------- what counts


@dataclass(frozen=True)
class WithSpec:
    name: str
    system: str
    seed: int | None
    groups: tuple = ("table1",)
    spec: dict = field(default_factory=dict)


def test_a_cell_of_another_specification_is_void(tmp_path):
    folder = Folder(tmp_path)
    spec = {"config": {"align": {"beta": 2.0}}, "sizes": (1, 2), "groups": ["a"], "needs": []}
    folder.add(
        "raddpo", 0, spec=json.loads(json.dumps({**spec, "groups": ["b"], "needs": ["sft.s0"]}))
    )
    folder.add("raddpo", 1, spec={**spec, "config": {"align": {"beta": 1.0}}})
    folder.add("raddpo", 2)
    folder.planned = [WithSpec(f"raddpo.s{seed}", "raddpo", seed, spec=spec) for seed in range(3)]
    found = read(folder)
    assert list(found.cells) == ["raddpo.s0"]
    assert all("another specification" in found.void[name] for name in ("raddpo.s1", "raddpo.s2"))


def test_cells_of_different_device_types_are_warned_of(tmp_path):
    folder = main_cells(Folder(tmp_path), seeds=1)
    assert "different types of device" not in write(folder)[0]
    folder.add("raddpo", 0, device={"cpu": "made up", "used": "cuda:0", "cuda": "made up"})
    assert "**Cells ran on different types of device (cpu, cuda)**" in write(folder)[0]


def test_tuning_says_where_the_choice_lies_and_how_far_the_runs_are_apart(tmp_path):
    folder = Folder(tmp_path)
    rules = folder.rules.read_text()
    assert "- 0.1" in rules
    folder.rules.write_text(
        re.sub(r"lr_new:\n( +)- 0\.1", r"lr_new:\n\1- 0.1\n\1- 0.2\n\1- 0.3", rules, count=1)
    )
    for value, rate in ((0.41, 0.1), (0.43, 0.3), (0.42, 0.2)):
        facts = {"figures": {"day7.click.sid.mrr": value}, "axes": {"lr_new": rate, "beta": 1.0}}
        folder.add("raddpo", None, axis=f"lr_new={rate}.tune", groups=("tune",), **facts)
    assert "| RAD-DPO (softmax) | lr_new 0.3: highest of 3 | .0200 |" in write(folder)[0]
