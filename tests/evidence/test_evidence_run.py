"""The evidence's cells on a toy bed: run on workers, resumed, run again, and every figure
recomputed.
"""

import fcntl

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_evidence import toy_registration

from experiments.raddpo import registration
from experiments.raddpo.bed import Bed
from experiments.raddpo.cell import SECTIONS, SFT_SECTIONS, _as_read_today
from experiments.raddpo.plan import Cell, cells
from experiments.raddpo.rerun import rerun
from experiments.raddpo.run import Settings, jobs_of, run
from experiments.raddpo.sets import day_pool, held_out_pool
from experiments.raddpo.store import Values, read_cells
from sidar.config import Config

NAMES = (
    "bm25",
    "oracle-sid",
    "oracle-utility",
    "quantised-dense",
    "topic-oracle",
    "sft.s3",
    "sft-continued.s3",
    "raddpo@noise=0.5.s0",
    "sft-continued@checkpoint=best.s3",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Settings of a finished toy run of :data:`NAMES`, under a toy registration."""
    folder = tmp_path_factory.mktemp("evidence")
    before = registration.registration_file()
    registration.use(toy_registration(folder))
    settings = Settings(folder / "work", folder / "results", workers=2)
    said: list[str] = []
    assert run(wanted(), settings, said.append) == []
    yield settings
    registration.use(before)


def wanted() -> list[Cell]:
    return [cell for cell in cells("full") if cell.name in NAMES]


def result(settings: Settings, name: str) -> dict:
    return read_cells(settings.results)[name]


def test_every_cell_leaves_facts_and_the_values_that_its_figures_are_means_of(toy):
    assert not list(toy.loose.iterdir())  # folded into the kept ones
    kept = Values(toy.results)
    for name in NAMES:
        found = result(toy, name)
        table = kept.table(name)
        sets = np.array(table.column("set").to_pylist())
        assert found["figures"], name
        for figure, mean in found["figures"].items():
            pool, column = figure.split(".", 1)
            values = table.column(column).to_numpy()[sets == pool].astype(np.float64)
            assert mean == pytest.approx(np.nanmean(values), abs=1e-12)


def test_the_best_checkpoint_of_day_7_is_scored_where_a_cell_asks_for_it(toy):
    best, final = result(toy, "sft-continued@checkpoint=best.s3"), result(toy, "sft-continued.s3")
    assert best["train"]["valid"] == final["train"]["valid"]  # the same training
    same_step = best["train"]["best"]["step"] == best["train"]["final"]["step"]
    shared = best["figures"].keys() & final["figures"].keys()
    assert shared
    assert all(best["figures"][k] == final["figures"][k] for k in shared) == same_step


def test_the_queries_of_every_cell_are_listed_with_their_clusters(toy):
    listed = pq.read_table(toy.results / "queries.parquet").to_pydict()
    known = set(zip(listed["set"], listed["query_id"], strict=True))
    values = Values(toy.results)
    for name in NAMES:
        found = values.table(name).select(["set", "query_id"]).to_pydict()
        assert set(zip(found["set"], found["query_id"], strict=True)) <= known
    assert all(listed["cluster"])


def test_a_ceiling_is_above_what_it_bounds(toy):
    for column in ("click.sid.mrr", "order.sid.mrr", "utility.sid.ndcg@10"):
        assert result(toy, "oracle-sid")["figures"][f"day8.{column}"] == pytest.approx(1.0)
        assert result(toy, "sft.s3")["figures"][f"day8.{column}"] < 1.0
    reached = result(toy, "sft.s3")["figures"]
    assert reached["day8.reachable.click.sid.recall@128"] == pytest.approx(
        reached["day8.click.sid.recall@128"], abs=0.1
    )


def test_a_finished_run_has_nothing_left_to_do(toy):
    said: list[str] = []
    assert run(wanted(), toy, said.append) == []
    assert said[-1].startswith(f"{len(NAMES)} of {len(NAMES)} cells stand; 0 jobs")


def test_a_rerun_from_the_json_gives_the_same_figures_even_when_the_sft_model_is_gone(
    toy, tmp_path
):
    again = Settings(toy.work, tmp_path / "again", workers=1)
    for model in (toy.work / "models").iterdir():
        for file in model.rglob("*"):
            if file.is_file():
                file.unlink()
    assert rerun(result(toy, "sft-continued.s3"), again, lambda text: None) == {}


def test_a_rerun_names_what_differs(toy, tmp_path):
    changed = result(toy, "bm25")
    changed["figures"]["day8.click.sid.mrr"] += 0.25
    again = Settings(toy.work, tmp_path / "again", workers=1)
    differing = rerun(changed, again, lambda text: None)
    assert list(differing) == ["figures/day8.click.sid.mrr"]


def test_another_simulator_is_refused(toy, tmp_path, monkeypatch):
    said = {**registration.registration()}
    said["simulator"] = {**said["simulator"], "hash": "0" * 64}
    monkeypatch.setattr(registration, "_read", lambda: said)
    with pytest.raises(ValueError, match=r"simulator's hash differ from registration.yaml"):
        run(wanted(), toy, lambda text: None)


def test_noise_puts_unclicked_exact_items_in_the_place_of_negatives(toy):
    bed = Bed(toy.work)
    clean = pq.read_table(bed.data() / "lists.parquet").to_pylist()
    noisy = pq.read_table(bed.data("noise-0.5") / "lists.parquet").to_pylist()
    exact, before, after = bed.relevant_rows(1.0), {}, {}
    for kept, rows in ((before, clean), (after, noisy)):
        kept.update({row["request_id"]: row for row in rows})
    assert before.keys() == after.keys()
    for request, row in after.items():
        old, new = before[request]["negatives"], row["negatives"]
        if row["split"] == "valid":
            assert old == new
            continue
        assert set(new) - set(old) <= exact.get(row["query"], set())
        assert not set(new) & set(row["positives"])
        assert len(set(new)) == len(new)
    clean_share, noisy_share = (bed.relevant_share(variant, 3) for variant in ("base", "noise-0.5"))
    assert clean_share + 0.1 < noisy_share < 1.0
    bed.build_data("clean", lambda text: None)  # after the base's share was kept beside its lists
    assert bed.relevant_share("clean", 3) == 0 < clean_share
    day = {
        r["request_id"]: r["day"]
        for r in pq.read_table(bed.data() / "requests.parquet").to_pylist()
    }
    shown = pq.read_table(bed.truth, columns=["request_id", "item_id"]).to_pylist()
    from sidar.data import open_dataset

    row_of = {
        item: number for number, item in enumerate(open_dataset(bed.data()).catalogue.item_ids)
    }
    trained = {row_of[r["item_id"]] for r in shown if day[r["request_id"]] <= 6}
    assert set().union(*exact.values()) <= trained  # nothing of days 7 and 8 is injected


def test_a_second_run_in_the_same_folder_is_refused(toy):
    with (toy.work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ValueError, match="another run works in"):
            run(wanted(), toy, lambda text: None)


def test_channels_are_run_again_where_a_fusion_misses_their_answers():
    cell = next(each for each in cells("core") if each.name == "raddpo.s0")
    jobs, done = jobs_of(
        [cell], lambda each: False, lambda name: name not in ("bm25", "dense-tuned")
    )
    assert [job.key for job in jobs] == ["model of sft.s0", "bm25", "dense-tuned", "raddpo.s0"]
    assert jobs[-1].needs == {"bm25", "dense-tuned", "model of sft.s0"}
    assert done == 0


def test_clean_lists_lose_their_relevant_negatives_and_nothing_else(toy):
    bed = Bed(toy.work)
    bed.build_data("clean", lambda text: None)
    good = bed.relevant_rows(0.1)
    before = {
        row["request_id"]: row for row in pq.read_table(bed.data() / "lists.parquet").to_pylist()
    }
    dropped = 0
    for row in pq.read_table(bed.data("clean") / "lists.parquet").to_pylist():
        old = before[row["request_id"]]
        relevant = good.get(row["query"], set()) if row["split"] == "train" else set()
        assert row["negatives"] == [item for item in old["negatives"] if item not in relevant]
        dropped += len(old["negatives"]) - len(row["negatives"])
    assert dropped > 0


def test_pools_are_cut_as_registered_and_utility_is_asked_of_clicked_requests(toy):
    bed = Bed(toy.work)
    limits = registration.registration()["bed"]["requests"]
    pool = day_pool(bed, 8, limits)
    assert len(pool.targets["click"].at) == limits["click"]
    assert all(0 < len(pool.targets[name].at) <= limit for name, limit in limits.items())
    assert set(pool.targets["utility"].at.tolist()) <= set(pool.targets["click"].at.tolist())
    assert len(set(pool.query_ids)) == len(pool)
    assert len(held_out_pool(bed, "grounded_test", 10)) == 10


def test_a_model_trained_before_a_field_existed_is_still_the_one_wanted():
    cfg = Config.model_validate({"seed": 3})
    said = {name: cfg.model_dump(mode="json")[name] for name in SFT_SECTIONS}
    older = {"config": {**said, "align": {"lr_new": 1.0}, "lm": dict(said["lm"])}, "parent": None}
    del older["config"]["lm"]["geometry"]
    assert _as_read_today(older, cfg, said) == {"config": said, "parent": None}
    older["config"]["lm"]["layers"] += 1
    assert _as_read_today(older, cfg, said) != {"config": said, "parent": None}


def test_a_model_trained_under_a_recorded_null_is_not_the_one_wanted():
    cfg = Config.model_validate({"seed": 3})
    said = {name: cfg.resolved().model_dump(mode="json")[name] for name in SECTIONS}
    assert _as_read_today({"config": said}, cfg, said) == {"config": said}
    without = {key: value for key, value in said["align"].items() if key != "beta"}
    assert _as_read_today({"config": {**said, "align": without}}, cfg, said) == {"config": said}
    null = {**said["align"], "beta": None}
    assert _as_read_today({"config": {**said, "align": null}}, cfg, said) != {"config": said}
