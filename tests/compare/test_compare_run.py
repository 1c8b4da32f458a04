"""The comparison on the toy shop: the whole path, what is equal, what is skipped, and what a
failure leaves.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from sidar.cli import app
from sidar.compare import run
from sidar.compare.budget import LEAST, TOLERANCE, KeptAnswer, fits, resized, sft_steps
from sidar.compare.comparison import Comparison, MethodRun
from sidar.compare.methods import DEFAULT, METHODS, REFERENCE, chosen_methods, sid_config
from sidar.compare.page import make_page
from sidar.compare.paired import Sampling, compare_methods
from sidar.compare.results import Results
from sidar.compare.run import compare_tokenizers, fit_sids
from sidar.compare.verdict import caveats
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.embed.cache import VectorCache, text_keys
from sidar.evaluate.perquery import PerQuery, read_clusters
from sidar.sid import picture, stage
from sidar.sid.inputs import logged_queries
from sidar.types import SemanticIds

FIT = {"steps": 5, "hidden": [16], "latent": 4}
SETTINGS = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "embed": {"model": "hashing:64"},
    "sid": {
        "codebook_sizes": [8, 4, 4],
        "reference": 0,
        "rqvae": FIT,
        "cqsid": FIT,
        "acrq": FIT | {"tail_steps": 5},
    },
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": {
        "steps": 4,
        "batch_size": 8,
        "validate_every": 4,
        "checkpoint_every": 4,
        "valid_requests": 4,
    },
    "align": {
        "steps": 2,
        "batch_size": 4,
        "validate_every": 2,
        "checkpoint_every": 2,
        "valid_requests": 4,
    },
    "decode": {"beam": 16},
    "evaluate": {
        "invalid_queries": 2,
        "bootstrap": 40,
        "max_queries": 8,
        "sets": [
            {
                "name": "judged",
                "queries": "judged_test.queries.tsv",
                "qrels": "judged_test.qrels.tsv",
            }
        ],
    },
}
ROOT = Path(__file__).parents[2]
GOOD = ["rqkmeans", "rqvae", "cqsid", "sarq", "sarq+acrq", "random", "sarq-shuffled"]


def tokens(row):
    """A toy's own IDs: shelf and place."""
    return [f"<a_{row // 8}>", f"<b_{row % 8}>"]


def load_script(path):
    """A script outside of the package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    toy.write_inputs(folder)
    ids = toy.catalogue().item_ids
    (folder / "ours.json").write_text(
        json.dumps({item: tokens(row) for row, item in enumerate(ids)})
    )
    (folder / "torn.json").write_text(
        json.dumps({item: tokens(row) for row, item in enumerate(ids[:60])})
    )
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def results(shop):
    with pytest.MonkeyPatch.context() as patch:
        # pictures take most of the time of a toy's fit
        patch.setattr(stage, "draw", lambda *given: None)
        methods = [*GOOD, f"ours={shop / 'ours.json'}", f"torn={shop / 'torn.json'}"]
        return compare_tokenizers(load_config(shop / "sidar.yaml"), methods)


def folder_of(shop):
    return shop / "runs/shop/compare-sids"


def times(shop):
    return {path: path.stat().st_mtime_ns for path in folder_of(shop).rglob("manifest.json")}


def test_every_method_is_measured_and_the_page_is_made_from_the_results_alone(shop, results):
    root = folder_of(shop)
    assert list(results.methods) == [*GOOD, "ours", "torn"]
    assert Results.read(root / "results.json") == results
    assert json.loads((root / "results.json").read_text()) == results.to_json()
    page = make_page(results)
    assert (root / "page.md").read_text() == page.markdown
    assert (root / "page.html").read_text() == page.html()
    pictures = {f"{picture.name}.svg": picture.standalone() for picture in page.pictures}
    assert pictures == {path.name: path.read_text() for path in (root / "images").iterdir()}
    assert len(pictures) == len(page.pictures) == 2
    assert results.sentence in page.markdown
    for name in GOOD:
        assert f"| {name} |" in page.markdown
    assert page.markdown.count("\n## ") == 6


def test_every_cell_is_the_mean_of_the_per_query_file(shop, results):
    values = PerQuery.read(folder_of(shop))
    checked = 0
    for name, evaluated in results.sets.items():
        for system, cells in evaluated.systems.items():
            for measure, cell in cells.items():
                ids, numbers = values.get(name, system, measure)
                assert cell.mean == pytest.approx(numbers.mean(), rel=1e-5)
                assert cell.n == len(ids)
                checked += 1
    assert checked > 300


def test_methods_are_tested_against_the_reference_and_their_controls(shop, results):
    text = (folder_of(shop) / "page.md").read_text()
    assert "| rqkmeans − random | judged | nDCG@10 |" in text
    assert "**sarq-shuffled**" in text
    lengths = [results.methods[name].quality.lengths for name in ("sarq", "sarq-shuffled")]
    assert lengths[0] == lengths[1]
    asked = {(test.question, test.a, test.b, test.measure) for test in results.tests}
    assert {
        ("better", "cqsid", "rqkmeans", "item/ndcg@10"),
        ("better", "sarq+acrq", "rqkmeans", "item/recall@100[tail]"),
        ("controls", "sarq", "sarq-shuffled", "item/recall@100"),
    } <= asked


def test_a_method_that_missed_the_budget_is_in_no_test(shop, results):
    clusters = read_clusters(folder_of(shop))
    values = PerQuery.read(folder_of(shop))
    left = [METHODS[name] for name in GOOD if name != "cqsid"]
    tests = compare_methods(values, clusters, left, Sampling(samples=40))
    assert {test.question for test in tests} == {"better", "controls"}
    assert not any("cqsid" in (test.a, test.b) for test in tests)
    missed = replace(results.methods["cqsid"], equal=False, bits_over=0.023)
    page = make_page(replace(results, methods=results.methods | {"cqsid": missed}, tests=tests))
    assert "**cqsid misses the budget** by +2.3%" in page.markdown
    assert "| cqsid | " in page.markdown
    assert "cqsid − rqkmeans" not in page.markdown


def test_the_budget_is_equal_or_the_method_stands_outside_of_the_tests(results):
    bits = {name: results.methods[name].bits for name in results.complete()}
    assert bits["rqkmeans"] == 7
    for name in GOOD:
        assert abs(bits[name] / bits["rqkmeans"] - 1) <= TOLERANCE
        assert results.methods[name].equal
    assert bits["ours"] == 6
    assert not results.methods["ours"].equal
    assert not any("ours" in (test.a, test.b) for test in results.tests + results.leaders.tests)
    assert "ours" in results.sets["judged"].systems
    assert len(set(results.methods["sarq"].quality.lengths.values()) - {0}) > 1


def test_a_method_that_fails_names_itself_and_leaves_the_others(shop, results):
    torn = results.methods["torn"]
    assert torn.failed == "sid"
    assert "item" in torn.error
    assert "Traceback" in (folder_of(shop) / "torn/seed-0/error.txt").read_text()
    text = make_page(results).markdown
    assert "**torn failed** at `sid` (seed 0)" in text
    assert "torn" not in results.sets["judged"].systems
    assert "torn" not in results.sentence
    lead = text[: text.index("## 1. ")]
    assert "**torn failed** at `sid` (seed 0)" in lead
    assert all(said in lead for said in caveats(results))


def test_the_command_ends_with_what_failed_and_what_has_no_power(shop, results, monkeypatch):
    monkeypatch.setattr(run, "compare_tokenizers", lambda *given, **more: results)
    done = CliRunner().invoke(app, ["compare-sids", "-c", str(shop / "sidar.yaml")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "torn failed at `sid` (seed 0)" in said
    for caveat in caveats(results):
        assert caveat.replace("**", "") in said


def test_the_replication_of_cqsid_measures_the_models_of_a_comparison(shop, results):
    cqsid = load_script(ROOT / "experiments/tokenizers/cqsid.py")
    found = json.loads(json.dumps(cqsid.measure(load_config(shop / "sidar.yaml"))))
    assert set(found["systems"]) == {"rqvae", "cqsid"}
    tests = {(test["question"], test["measure"], test["other"]) for test in found["tests"]}
    assert ("cqsid", "item/ndcg@10", "") in tests
    assert ("half", "beam/semantic/hit@5", "beam/semantic/hit@10") in tests
    page = cqsid.page(found)
    assert "| semantic: CQ-SID at 5 − RQ-VAE at 10 |" in page
    assert "| cqsid − rqvae | day8-clicks | beam/semantic/hit@1 |" in page
    assert "## First 1,000 items" in page


def test_what_is_up_to_date_is_skipped(shop, results, monkeypatch):
    monkeypatch.setattr(stage, "draw", lambda *given: None)
    cfg = load_config(shop / "sidar.yaml")
    before, methods = times(shop), [*GOOD, f"ours={shop / 'ours.json'}"]
    again = compare_tokenizers(cfg, methods)
    assert times(shop) == before
    assert again.sets == results.sets
    assert "torn" not in again.methods
    gone = folder_of(shop) / "sarq/seed-0/measure"
    for path in gone.iterdir():
        path.unlink()
    gone.rmdir()
    compare_tokenizers(cfg, methods)
    changed = {
        path.parent.relative_to(folder_of(shop)).as_posix()
        for path, at in times(shop).items()
        if before[path] != at
    }
    assert changed == {"sarq/seed-0/measure"}


def test_a_second_seed_adds_to_the_first(shop, results, monkeypatch):
    monkeypatch.setattr(stage, "draw", lambda *given: None)
    before = times(shop)
    found = compare_tokenizers(
        load_config(shop / "sidar.yaml"), ["rqkmeans", "random"], seeds=[0, 1]
    )
    assert all(
        times(shop)[path] == at for path, at in before.items() if "latency" not in path.parts
    )
    cell = found.sets["judged"].systems["random"]["item/ndcg@10"]
    values = PerQuery.read(folder_of(shop))
    parts = [values.get("judged", f"random#{seed}", "item/ndcg@10")[1] for seed in (0, 1)]
    assert not np.array_equal(*parts)
    assert cell.mean == pytest.approx(np.concatenate(parts).mean(), rel=1e-5)
    test = next(t for t in found.tests if t.measure == "item/ndcg@10" and t.set == "judged")
    assert test.n == 2 * test.clusters == 16
    assert test.agree in (1, 2)
    assert "seeds that agree" in (folder_of(shop) / "page.md").read_text()


def test_the_aligned_models_are_measured_where_asked(shop, results, monkeypatch):
    monkeypatch.setattr(stage, "draw", lambda *given: None)
    before = times(shop)
    found = compare_tokenizers(load_config(shop / "sidar.yaml"), ["rqkmeans"], align=True)
    mine = folder_of(shop) / "rqkmeans/seed-0"
    assert {
        path.parent.name
        for path, at in times(shop).items()
        if mine in path.parents and before.get(path) != at
    } == {
        "align-raddpo",
        "measure",
    }
    assert found.model == replace(results.model, stage="align-raddpo", align_steps=2)
    assert found.sentence == "Only rqkmeans took part, so there is nothing to choose."
    assert "No control took part." in (folder_of(shop) / "page.md").read_text()


def test_two_workers_find_what_one_finds(shop, results):
    found = compare_tokenizers(
        load_config(shop / "sidar.yaml", ["name=shared"]), ["random"], workers=2
    )
    for each, evaluated in found.sets.items():
        for name in ("rqkmeans", "random"):
            assert evaluated.systems[name] == results.sets[each].systems[name]
    with pytest.raises(ValueError, match="--workers is 0"):
        compare_tokenizers(load_config(shop / "sidar.yaml"), workers=0)


def test_models_that_read_sentence_vectors_are_compared_too(shop, monkeypatch):
    monkeypatch.setattr(stage, "draw", lambda *given: None)
    cfg = load_config(
        shop / "sidar.yaml", ["name=vectors", "lm.geometry=true", "evaluate.bootstrap=20"]
    )
    found = compare_tokenizers(cfg, ["random"])
    assert found.complete() == ["rqkmeans", "random"]
    assert set(found.latency.ms) == {"rqkmeans", "random"}


def test_the_logs_queries_are_embedded_before_the_pool_starts(shop, monkeypatch):
    def stop(*given):
        raise InterruptedError

    monkeypatch.setattr(run, "_run_all", stop)
    cfg = load_config(shop / "sidar.yaml", ["name=queries"])
    for method, wanted in (("random", False), ("cqsid", True)):
        with pytest.raises(InterruptedError):
            compare_tokenizers(cfg, [method], workers=2)
        data = open_dataset(cfg.run_dir / "data")
        queries, pairs = logged_queries(data.sft(), np.flatnonzero(data.catalogue.alive), 10**6)
        (folder,) = (cfg.run_dir / ".embed.cache").iterdir()
        known = ~VectorCache(folder, 64).missing(
            text_keys([queries[q] for q in np.unique(pairs[:, 0])])
        )
        assert known.all() if wanted else not known.any()


def test_a_reference_that_fails_ends_it(shop):
    cfg = load_config(shop / "sidar.yaml", ["name=torn", "sid.view=query"])
    with pytest.raises(ValueError, match="rqkmeans, with which all are compared, failed at sid"):
        compare_tokenizers(cfg, ["random"])


def test_the_command_line(shop):
    def sidar(*words):
        return subprocess.run(
            [sys.executable, "-m", "sidar", *map(str, words)], capture_output=True, text=True
        )

    done = sidar(
        "compare-sids", "-c", shop / "sidar.yaml", "--methods", "rqkmeans,sarc", "--seeds", "0"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unknown methods sarc" in done.stderr
    table = folder_of(shop) / "rqkmeans/seed-0/sid/sids.parquet"
    done = sidar(
        "compare-sids", "-c", shop / "sidar.yaml", "--table", f"a={table}", "--table", f"b={table}"
    )
    assert done.returncode == 0, done.stderr
    assert "collision_rate" in done.stdout


def test_bad_names_and_numbers(shop):
    with pytest.raises(
        ValueError, match=r"unknown methods rqkmean; there are rqkmeans, .*NAME=PATH"
    ):
        chosen_methods(["rqkmean"])
    with pytest.raises(ValueError, match=r"none\.json is no file"):
        chosen_methods(["ours=none.json"])
    with pytest.raises(ValueError, match="more than 0"):
        compare_tokenizers(load_config(shop / "sidar.yaml"), minutes=0)
    with pytest.raises(ValueError, match="without warm_start"):
        compare_tokenizers(load_config(shop / "sidar.yaml", ["warm_start=x"]))


def test_the_reference_takes_part_whether_named_or_not():
    assert [each.name for each in chosen_methods(["sarq"])] == [REFERENCE, "sarq"]
    assert [each.name for each in chosen_methods()] == list(DEFAULT)
    assert {each.must_lose_to for each in chosen_methods()} == {"", "rqkmeans", "sarq"}


@pytest.mark.parametrize("name", METHODS)
def test_every_name_is_a_config_at_the_references_size(name):
    cfg = load_config(None)
    sid = sid_config(cfg.sid, METHODS[name], (8, 4, 4), 7.0)
    assert sid.codebook_sizes == [8, 4, 4]
    assert sid.sarq.budget == (7.0 if sid.method == "sarq" else None)
    assert sid.category_first == (name == "rqkmeans-category")
    assert (sid.sarq.lengths == "shuffled") == (name == "sarq-shuffled")


def test_sizes_are_scaled_alike_in_all_levels():
    assert resized((256, 128, 64), 21.51, 21.0) == (228, 114, 57)  # what a 12.5 % extension takes
    assert resized((8, 4, 4), 7.0, 7.0) == (8, 4, 4)
    assert resized((2, 2), 4.0, 2.0) == (2, 2)  # no level has fewer than two codes


class Extending(Comparison):
    """A comparison whose tokenizer adds an eighth to each codebook that it is asked for."""

    def run_stage(self, name, run):
        self.made.append("/".join(map(str, run.config.sid.codebook_sizes)))


class Extended(MethodRun):
    """A run with the table that such a tokenizer leaves."""

    def sids(self):
        sizes = tuple(size + round(size / 8) for size in self.config.sid.codebook_sizes)
        codes = np.zeros((3, len(sizes)), np.int32)
        return SemanticIds(codes, np.full(3, len(sizes), np.int32), sizes)


def test_a_method_that_adds_codes_is_fitted_again_until_it_keeps_the_budget(tmp_path):
    def asked_sizes(bits=21.0):
        cfg = load_config(None)
        comparison = Extending(cfg, False, 0, bits=bits, sizes=(256, 128, 64))
        fit_sids(comparison, Extended(METHODS["acrq"], 0, tmp_path, cfg))
        return comparison.made

    assert asked_sizes() == ["256/128/64", "228/114/57"]
    assert fits(np.log2(np.array([256, 128, 64])).sum(), 21.0)
    assert asked_sizes() == ["228/114/57"]  # kept in its folder
    assert asked_sizes(bits=18.0)[0] == "256/128/64"  # what is kept answers another question


def test_minutes_become_steps_once(tmp_path, monkeypatch):
    cfg = load_config(None)
    asked = []
    monkeypatch.setattr(
        "sidar.compare.budget.seconds_per_step", lambda *given: asked.append(1) or 0.5
    )
    # two thirds of 1,800 s, 8 models, .5 s a step
    assert sft_steps(cfg, tmp_path, 30, 8, tmp_path) == 300
    assert sft_steps(cfg, tmp_path, 30, 8, tmp_path) == 300
    assert asked == [1]
    assert sft_steps(cfg, tmp_path, 0.1, 8, tmp_path) == LEAST
    assert asked == [1, 1]


def test_a_kill_while_a_number_is_kept_leaves_the_one_before(tmp_path, monkeypatch):
    def dies(*given):
        raise KeyboardInterrupt

    cfg = load_config(None)
    monkeypatch.setattr("sidar.compare.budget.seconds_per_step", lambda *given: 0.5)
    kept = KeptAnswer(tmp_path / "sizes.json", "asked")
    kept.write({"sizes": [8, 4, 4]})
    sft_steps(cfg, tmp_path, 30, 8, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            kept.write({"sizes": [4, 2, 2]})
        with pytest.raises(KeyboardInterrupt):
            sft_steps(cfg, tmp_path, 60, 8, tmp_path)
    assert kept.read()["sizes"] == [8, 4, 4]
    assert sft_steps(cfg, tmp_path, 30, 8, tmp_path) == 300
    assert {path.name for path in tmp_path.iterdir()} == {"sizes.json", "steps.json"}


def test_pictures_are_drawn_by_default():
    assert stage.draw is picture.draw
