"""The evidence page says what the cells say: planted effects come back with the right words, and
nothing else does.
"""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
from evidence_cells import CLUSTERS, EFFECTS, MASS, QUERIES, RULES, Folder, main_cells, read

from experiments.raddpo.report.compare import against, all_of, compare, levels
from experiments.raddpo.report.contrast import Contrast, Side, difference, per_query
from experiments.raddpo.report.families import claims, family
from experiments.raddpo.report.show import all_words
from sidar.evaluate.stats import holm, paired_test, smallest_detectable

MRR = "click.sid.mrr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return main_cells(Folder(tmp_path_factory.mktemp("evidence")))


@pytest.fixture(scope="module")
def evidence(folder):
    return read(folder)


# ---------------------------------------------------------------------- statistics


def slow_difference(folder, a, b, metric, seeds):
    """Straight from the files: query by query, seed by seed."""
    queries = pq.read_table(folder.results / "queries.parquet").to_pylist()
    cluster = {(row["set"], row["query_id"]): row["cluster"] for row in queries}
    values, labels = [], []
    for seed in seeds:
        tables = []
        for system in (a, b):
            rows = pq.read_table(folder.loose / f"{system}.s{seed}.parquet").to_pylist()
            tables.append({row["query_id"]: row[metric] for row in rows if row["set"] == "day8"})
        for query_id, value in tables[0].items():
            if not np.isnan(value) and not np.isnan(tables[1][query_id]):
                values.append(value - tables[1][query_id])
                labels.append(cluster["day8", query_id])
    return np.array(values), labels


@pytest.mark.parametrize("metric", [MRR, "order.sid.mrr", "utility.item.ndcg@10"])
def test_an_effect_is_the_mean_over_queries_and_seeds_of_what_the_files_hold(
    folder, evidence, metric
):
    (result,) = compare(evidence, [difference("raddpo", "sft-continued", metric)])
    values, labels = slow_difference(folder, "raddpo", "sft-continued", metric, (0, 1, 2))
    expected = paired_test(values, np.zeros_like(values), np.array(labels))
    assert result.test.effect == pytest.approx(values.mean(), abs=1e-7)
    assert result.test.detectable == pytest.approx(
        smallest_detectable(values, np.array(labels)), rel=1e-5
    )
    assert result.test.n == len(values) == 3 * (60 if metric.startswith("order") else QUERIES)
    assert result.test.clusters == len(set(labels)) <= CLUSTERS
    # The same clusters in another order draw other resamples: equal up to the bootstrap's own
    # error.
    assert (result.test.low, result.test.high) == pytest.approx(
        (expected.low, expected.high), abs=1e-3
    )
    per_seed = [
        slow_difference(folder, "raddpo", "sft-continued", metric, [s])[0].mean() for s in (0, 1, 2)
    ]
    assert list(result.seeds.values()) == pytest.approx(per_seed, abs=1e-7)
    assert result.seed_sd == pytest.approx(np.std(per_seed, ddof=1), abs=1e-7)
    assert result.agreeing == sum(np.sign(s) == np.sign(values.mean()) for s in per_seed)


def test_planted_effects_get_their_words(evidence):
    found = against(evidence, "sft-continued", MRR)
    assert found["raddpo"].word == "holds"
    assert found["raddpo"].test.effect == pytest.approx(EFFECTS["raddpo"], abs=0.008)
    assert found["raddpo"].test.low < EFFECTS["raddpo"] < found["raddpo"].test.high
    assert (found["dpo"].contrast.sign, found["dpo"].word, found["dpo"].met) == (
        "-",
        "holds",
        "yes",
    )
    assert (found["simpo"].contrast.sign, found["simpo"].word, found["simpo"].met) == (
        "0",
        "nothing seen",
        "not contradicted",
    )
    assert (found["orpo"].contrast.sign, found["orpo"].word, found["orpo"].met) == (
        "+",
        "cannot tell here",
        "open",
    )
    # An effect where none was expected is a miss, whichever way it goes.
    utility = against(evidence, "sft-continued", "utility.sid.ndcg@10")["raddpo"]
    assert (utility.contrast.sign, utility.word, utility.met) == ("0", "does not hold", "no")
    # Against SFT everything is asked for "better".
    assert against(evidence, "sft", MRR)["dpo"].word == "does not hold"
    assert against(evidence, "sft", MRR)["sft-continued"].word == "holds"


def test_holm_runs_over_the_methods_of_one_control_and_measure(evidence):
    found = against(evidence, "sft-continued", MRR)
    assert set(found) == set(RULES["expected"])
    assert [r.p for r in found.values()] == pytest.approx(holm([r.test.p for r in found.values()]))
    alone = {s: compare(evidence, [difference(s, "sft-continued", MRR)])[0] for s in found}
    assert found["simpo"].test == alone["simpo"].test  # sharing permutations changes nothing
    assert any(found[s].p > alone[s].p for s in found)


def test_the_interval_covers_and_the_detectable_effect_is_detected(tmp_path):
    """Many planted effects of the size that the test says it could see: about four in five are
    seen.
    """
    folder = Folder(tmp_path)
    folder.add("sft-continued", 0, effect=0.0, held_out=False)
    folder.add("probe", 0, effect=0.0, held_out=False)
    (null,) = compare(read(folder), [difference("probe", "sft-continued", MRR)])
    size, seen, covered = null.test.detectable, 0, 0
    runs = 40
    for run in range(runs):
        folder.add(f"probe{run}", 0, effect=size, held_out=False)
        # Each probe has a control of its own: one shared control's luck would be in all of them.
        folder.add(f"control{run}", 0, effect=0.0, held_out=False)
    folder_read = read(folder)
    for run in range(runs):
        (result,) = compare(
            folder_read, [difference(f"probe{run}", f"control{run}", MRR)], permutations=500
        )
        seen += result.test.p < 0.05
        covered += result.test.low <= size <= result.test.high
    assert 0.6 <= seen / runs <= 0.97  # 80 % expected; ±3 standard errors of 40 runs
    assert covered / runs >= 0.84  # 95 % expected


def test_seeds_are_paired_and_a_missing_one_is_left_out(tmp_path):
    folder = Folder(tmp_path)
    for seed in (0, 1, 2):
        folder.add("sft-continued", seed)
    for seed in (1, 2, 3):
        folder.add("raddpo", seed)
    (result,) = compare(read(folder), [difference("raddpo", "sft-continued", MRR)])
    assert list(result.seeds) == [1, 2]
    assert result.test.n == 2 * QUERIES


def test_a_baseline_stands_beside_every_seed(evidence):
    (result,) = compare(evidence, [difference("raddpo", "bm25", MRR)])
    assert list(result.seeds) == [0, 1, 2]
    assert result.word == "holds"
    assert levels(evidence, "bm25", [MRR])[MRR].seeds == 0
    assert levels(evidence, "raddpo", [MRR])[MRR].seeds == 3


def test_cells_of_other_models_or_ids_are_never_paired(tmp_path):
    folder = Folder(tmp_path)
    folder.add("sft", 0, kind="sft")
    folder.add("raddpo", 0)
    folder.add("raddpo", 1, bed={"simulator": "ab" * 32, "lexicon": "cd" * 32, "sids": "other"})
    folder.add("sft", 1, kind="sft")
    folder.add("raddpo", 0, axis="head=full")
    found = read(folder)
    (same,) = compare(found, [difference("raddpo", "sft", MRR)])
    assert list(same.seeds) == [0]
    other = Contrast((Side("raddpo", MRR, "head=full"),), (Side("sft", MRR),))
    assert compare(found, [other])[0].word == "not run"


def test_an_interaction_is_a_difference_of_differences(tmp_path):
    folder = Folder(tmp_path)
    for seed in (0, 1, 2):
        for system, clean, noisy in (("raddpo", 0.02, 0.0), ("raddpo-no-rdrw", 0.01, -0.06)):
            folder.add(system, seed, effect=clean, noise_sd=0.03)
            folder.add(system, seed, effect=noisy, noise_sd=0.03, axis="noise=0.5")
    found = read(folder)
    result = family(found, "noise slopes", MRR)["RAD-DPO (softmax) − w/o RDRW"]
    assert result.test.effect == pytest.approx(0.05, abs=0.01)
    parts = [
        per_query(found, difference("raddpo", "raddpo-no-rdrw", MRR, variant=v))[0]
        for v in ("noise=0.5", "")
    ]
    assert result.test.effect == pytest.approx((parts[0] - parts[1]).mean())
    assert result.word == "holds"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "cannot tell here"], "cannot tell here"),
        (["holds", "not run"], "cannot tell here"),
        (["cannot tell here", "does not hold"], "does not hold"),
        (["not run", "not run"], "not run"),
        ([], "not run"),
    ],
)
def test_a_claim_of_many_parts_holds_only_in_whole(words, expected):
    assert all_of(words) == expected


# ---------------------------------------------------------------------- claims


def test_claims_carry_the_registered_direction_and_the_familys_correction(evidence):
    found = claims(evidence, MRR)
    assert found["beats-sft-continued"].word == found["beats-dpo"].word == "holds"
    assert found["beats-sft-continued"].p == against(evidence, "sft-continued", MRR)["raddpo"].p
    assert found["reverse"].word == "does not hold"
    assert found["tlgd"].word == "not run"
    assert found["tlgd"].test is None


def test_the_order_of_harm(evidence):
    names = RULES["hallucination_order"]
    steps = list(family(evidence, "order of harm", "invalid.mass").values())
    assert [r.word for r in steps] == ["holds"] * 4
    for (a, b), r in zip(itertools.pairwise(names), steps, strict=True):
        assert r.test.effect == pytest.approx(MASS[b] - MASS[a], abs=0.01)
        assert r.test.n == 3 * 24


def test_the_order_of_harm_is_refused_when_one_step_is_turned(tmp_path):
    folder = Folder(tmp_path)
    for seed, (system, mass) in itertools.product((0, 1, 2), (MASS | {"simpo": 0.12}).items()):
        folder.add(
            system, seed, kind="sft" if system == "sft" else "align", mass=mass, held_out=False
        )
    steps = family(read(folder), "order of harm", "invalid.mass").values()
    assert all_words(steps) == "**does not hold**"


def test_sizes_hold_only_if_every_size_was_run_and_holds(tmp_path):
    folder = Folder(tmp_path)
    for seed in (0, 1, 2):
        for axis in (None, "size=2x192"):
            folder.add("sft", seed, kind="sft", axis=axis, held_out=False)
            folder.add("raddpo", seed, axis=axis, held_out=False)

    def results():
        return family(read(folder), "sizes", MRR)

    assert list(results()) == [
        "RAD-DPO (softmax) (size 2x192) − SFT (size 2x192)",
        "RAD-DPO (softmax) − SFT",
    ]
    assert all_words(results().values()) == "**holds**"
    folder.plan("raddpo@size=8x512.s0", "raddpo", 0)
    assert all_words(results().values()) == "cannot tell here"
