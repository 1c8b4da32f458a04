"""Parts that live outside the package, found by path and by entry point, taken through a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sidar.align import objective
from sidar.artifacts import read_manifest
from sidar.config import AlignConfig, Config, load_config
from sidar.data import open_dataset, toy
from sidar.embed import load_items
from sidar.extensions import OBJECTIVES, TOKENIZERS, load_plugins
from sidar.pipeline import plan
from sidar.sid import load_sids, load_tokenizer
from sidar.sid.plugin_checks import check_reload
from sidar.sid.stage import fit_catalogue
from sidar.types import CandidateScores, SidInputs

HERE = Path(__file__).parent
FILES = {"pq": HERE / "pq_tokenizer.py", "ipo": HERE / "ipo_objective.py"}
SETTINGS = {
    "name": "mine",
    "threads": 1,
    "plugins": [str(file) for file in FILES.values()],
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "embed": {"model": "hashing:32"},
    "sid": {"method": "pq", "pq": {"iterations": 3}},
    "lm": {
        **{"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64},
        "text_embeddings": "random",
    },
    "sft": {"steps": 4, "batch_size": 8, "validate_every": 4, "checkpoint_every": 4},
    "align": {
        **{"objective": "ipo", "ipo": {"tau": 0.5}, "steps": 2, "batch_size": 4},
        **{"validate_every": 2, "checkpoint_every": 2},
    },
    "decode": {"beam": 8},
    "evaluate": {"max_queries": 4, "bootstrap": 20, "invalid_queries": 1},
}


@pytest.fixture(autouse=True)
def forget_plugins(monkeypatch):
    """What one test registers is not there in the next, nor in other test files."""
    before = set(sys.modules)
    for registry in (TOKENIZERS, OBJECTIVES):
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    yield
    for name in set(sys.modules) - before:
        if name.startswith("sidar_plugin_"):
            del sys.modules[name]


SHORTEN = "self.codebooks_ = [book[:, :3] for book in self.codebooks_]\n        "


def sidar(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sidar", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    done = sidar("run", "-c", folder / "sidar.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_uses_both_parts_and_records_their_options(shop):
    run = shop / "runs" / "mine"
    with pytest.raises(ValueError, match="its module under `plugins:`"):
        load_tokenizer(run / "sid")
    load_plugins([str(FILES["pq"])])
    tokenizer = load_tokenizer(run / "sid")
    assert (type(tokenizer).__name__, tokenizer.options.iterations) == ("ProductQuantiser", 3)
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert {"sft", "ipo", "quantised-dense"} <= set(scores["kinds"])
    assert read_manifest(run / "sid").config["sid"]["pq"] == {"iterations": 3}
    assert read_manifest(run / "align-ipo").config["align.ipo"] == {"tau": 0.5}
    assert (run / "bundle").is_dir()


def test_a_loaded_tokenizer_encodes_as_the_fitted_one_did(shop):
    run = shop / "runs" / "mine"
    catalogue = open_dataset(run / "data").catalogue
    vectors = np.asarray(load_items(run / "embed"), np.float32)
    table = load_sids(run / "sid" / "sids.parquet", catalogue.item_ids)
    alive = catalogue.alive
    load_plugins([str(FILES["pq"])])
    codes = load_tokenizer(run / "sid").encode(SidInputs(vectors)).codes
    np.testing.assert_array_equal(codes[alive], table.codes[alive])


def test_only_what_depends_on_an_option_of_a_part_runs_again(shop):
    def stale(*overrides):
        cfg = load_config(shop / "sidar.yaml", list(overrides))
        return {step.stage.name: step.reason for step in plan(cfg) if step.reason}

    assert stale() == {}
    assert "align.ipo.tau" in stale("align.ipo.tau=0.2")["align-ipo"]
    assert "sid" not in stale("align.ipo.tau=0.2")
    assert "sid.pq.iterations" in stale("sid.pq.iterations=9")["sid"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sid.pq.iteration=3", r"sid\.pq\.iteration: Extra inputs"),
        ("sid.pq.iterations=0", r"sid\.pq\.iterations: .*greater than or equal to 1"),
        ("sid.qp={}", r"sid\.qp: Extra inputs"),
        ("align.ipo.taus=1", r"align\.ipo\.taus: Extra inputs"),
        ("align.objective=iop", r"'iop' is not one of .*ipo.*its module under `plugins:`"),
        ("align.ipo+sft={tau: 1}", r"align\.ipo\+sft: Extra inputs"),
        ("plugins=[nowhere.py]", r"'.*nowhere\.py' cannot be imported .*does not exist"),
        ("plugins=[no_such_module]", r"'no_such_module' cannot be imported"),
    ],
)
def test_a_misspelt_option_of_a_part_is_named(tmp_path, override, says):
    (tmp_path / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.raises(ValueError, match=says):
        load_config(tmp_path / "sidar.yaml", [override])


def test_a_plugin_is_found_beside_the_config(tmp_path):
    (tmp_path / "pq_here.py").write_text(FILES["pq"].read_text().replace('"pq"', '"pq-here"'))
    (tmp_path / "sidar.yaml").write_text("plugins: [pq_here.py]\nsid: {method: pq-here}\n")
    cfg = load_config(tmp_path / "sidar.yaml")
    assert cfg.sid.section("pq-here").iterations == 20
    assert TOKENIZERS.file("pq-here") == tmp_path / "pq_here.py"


def test_two_parts_of_one_name_are_refused(tmp_path):
    load_plugins([str(FILES["pq"])])
    copy = tmp_path / "copy.py"
    copy.write_text(FILES["pq"].read_text())
    with pytest.raises(
        ValueError, match=r"'pq' of .*copy\.py has the name of a part of .*pq_tokenizer\.py"
    ):
        load_plugins([str(copy)])
    copy.write_text(FILES["pq"].read_text().replace('"pq"', '"rqkmeans"'))
    with pytest.raises(
        ValueError, match=r"'rqkmeans' of .* has the name of a part of sidar\.sid\.rqkmeans"
    ):
        load_plugins([str(copy)])


def test_installed_packages_are_found_by_entry_points(tmp_path):
    site = tmp_path / "site"
    about = site / "shop_parts-1.0.dist-info"
    about.mkdir(parents=True)
    for name, file in FILES.items():
        (site / f"shop_{name}.py").write_text(file.read_text())
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[sidar.tokenizers]\npq = shop_pq:ProductQuantiser\n[sidar.objectives]\nipo = "
        "shop_ipo:ipo\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    schema = json.loads(sidar("init", "--schema", PYTHONPATH=path).stdout)
    assert (
        schema["$defs"]["SidConfig"]["properties"]["pq"]["properties"]["iterations"]["default"]
        == 20
    )
    assert (
        schema["$defs"]["AlignConfig"]["properties"]["ipo"]["properties"]["tau"]["default"] == 0.1
    )
    assert sidar("init", tmp_path, "--full", PYTHONPATH=path).returncode == 0
    written = yaml.safe_load((tmp_path / "sidar.yaml").read_text())
    assert (written["sid"]["pq"], written["align"]["ipo"]) == ({"iterations": 20}, {"tau": 0.1})


def test_init_writes_the_options_of_a_plugin(tmp_path):
    done = sidar("init", tmp_path, "--full", "--plugin", FILES["pq"])
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "sidar.yaml").read_text())
    assert written["sid"]["pq"] == {"iterations": 20}
    assert Config.model_validate(written).plugins == [str(FILES["pq"])]


def test_init_writes_the_path_of_a_plugin_as_seen_from_the_new_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILES["pq"].read_text())
    monkeypatch.chdir(tmp_path)
    done = sidar("init", "shop", "--plugin", "mine.py")
    assert done.returncode == 0, done.stderr
    cfg = load_config(tmp_path / "shop" / "sidar.yaml")
    assert TOKENIZERS.file("pq") == tmp_path / "mine.py"
    assert cfg.sid.section("pq").iterations == 20
    assert (yaml.safe_load((tmp_path / "shop" / "sidar.yaml").read_text()))["plugins"] == [
        "../mine.py"
    ]


def test_a_bundle_answers_and_versions_compare_without_the_plugin(shop):
    run = shop / "runs" / "mine"
    done = sidar("search", "red shirt", "--bundle", run / "bundle", "--k", "3")
    assert done.returncode == 0, done.stderr
    for arguments in (
        ["diff", run, run],
        ["plan", run / "bundle", run],
        ["export", run, shop / "ids.json"],
    ):
        done = sidar("sids", *arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = (1\n", r"SyntaxError.*; see .*mine\.py, line 1"),
        ("\nraise RuntimeError('my fault')\n", r"RuntimeError: my fault.*; see .*mine\.py, line 2"),
        ("\nimport no_such_module\n", r"ModuleNotFoundError.*; see .*mine\.py, line 2"),
        (
            FILES["pq"].read_text().replace("def encode(", "def encod("),
            "ProductQuantiser lacks encode",
        ),
    ],
)
def test_a_faulty_plugin_is_refused_with_its_file_and_line(tmp_path, text, says):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.py' cannot be imported.*" + says):
        load_plugins(["mine.py"], tmp_path)


def test_a_plugin_that_registers_nothing_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("import sidar.align\n")
    with pytest.raises(ValueError, match=r"'mine\.py' registers nothing; put @register_tokenizer"):
        load_plugins(["mine.py"], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "distances.argmin(1)",
            "distances.argmin(1) + 4",
            r"'pq-faulty': row 0: codes .* leave codebooks \(4, 4\)",
        ),
        (
            "full_table(codes)",
            "full_table(codes + 0.5)",
            "codes must be whole numbers .* got float64",
        ),
        (
            "full_table(codes)",
            "full_table(codes[1:])",
            r"mine\.py\): encode returned 39 SIDs for 40 items",
        ),
        ("full_table(codes)", "full_table(codes[:, :1])", "codes .* 2 codebooks do not fit"),
        (
            "return self.full_table(codes)",
            "return codes",
            r"mine\.py\): encode must return self\.full_table",
        ),
        (
            "return self.full_table",
            SHORTEN + "return self.full_table",
            r"mine\.py\): after fit codebooks_ must .* \(4, 8\).* got .*\(4, 3\)",
        ),
        (
            "        self.check_fitted()\n",
            "        self.seed += self.extra_\n",
            r"after save and load it fails .*extra_",
        ),
    ],
)
def test_what_a_tokenizer_returns_is_checked(tmp_path, old, new, says):
    text = FILES["pq"].read_text().replace('"pq"', '"pq-faulty"')
    assert old in text
    text = text.replace(old, new).replace(
        "        return self\n", "        self.extra_ = 0\n        return self\n", 1
    )
    (tmp_path / "mine.py").write_text(text)
    load_plugins(["mine.py"], tmp_path)
    with pytest.raises(ValueError, match=says):
        fit_save_and_load(tmp_path, "pq-faulty")


def fit_save_and_load(folder, method):
    """Fit a tokenizer as the stage does, and check what it has written."""
    inputs = SidInputs(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    config = Config(sid={"method": method, "levels": 2, "codebook_sizes": [4, 4]}).sid
    tokenizer, _, _ = fit_catalogue(config, inputs, seed=0)
    tokenizer.save(folder)
    check_reload(tokenizer, folder, inputs)


def test_a_tokenizer_that_forgets_what_it_learnt_is_refused(tmp_path):
    load_plugins([str(FILES["pq"])])
    inputs = SidInputs(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    tokenizer = TOKENIZERS["pq"]([4, 4]).fit(inputs)
    tokenizer.save(tmp_path)
    check_reload(tokenizer, tmp_path, inputs)
    tokenizer.codebooks_ = [book[::-1].copy() for book in tokenizer.codebooks_]
    with pytest.raises(
        ValueError, match="encodes otherwise than before; save keeps options and codebooks_ alone"
    ):
        check_reload(tokenizer, tmp_path, inputs)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "return pair_mean",
            "return margins.mean(-1) + pair_mean",
            r"the mean loss, a tensor .*, got a tensor \(1,\)",
        ),
        ("return pair_mean", "return 0 * pair_mean", None),
        (".square(), scores)", ".square(), scores).detach()", "the loss has no gradient"),
        (
            ".square(), scores)",
            ".square(), scores).item()",
            "the mean loss, a tensor .*, got float",
        ),
        ("return pair_mean", "pair_mean", "the mean loss, a tensor .*, got NoneType"),
    ],
)
def test_what_an_objective_returns_is_checked(tmp_path, old, new, says):
    (tmp_path / "mine.py").write_text(
        FILES["ipo"].read_text().replace('"ipo"', '"ipo-faulty"').replace(old, new)
    )
    load_plugins(["mine.py"], tmp_path)
    cfg = AlignConfig(objective="ipo-faulty")
    if says is None:
        assert objective("ipo-faulty").loss(one_list(), cfg)[0] == 0
        return
    with pytest.raises(
        ValueError, match=r"'ipo-faulty' \(.*mine\.py\): " + "(must return )?" + says
    ):
        objective("ipo-faulty").loss(one_list(), cfg)


def test_the_page_shows_the_tested_files():
    page = (HERE.parents[1] / "docs" / "extending.md").read_text()
    for file in FILES.values():
        assert f"```python\n{file.read_text()}```" in page


def one_list():
    """Return a list of one positive and two negatives with two steps per SID."""
    return CandidateScores(
        logp=torch.tensor([[[-1.0, -1.0], [-2.0, -1.0], [-4.0, -1.0]]], requires_grad=True),
        mask=torch.ones(1, 3, 2, dtype=torch.bool),
        tokens=torch.arange(6).reshape(1, 3, 2),
        is_positive=torch.tensor([[True, False, False]]),
        is_negative=torch.tensor([[False, True, True]]),
        tier=torch.tensor([[1, 0, 0]]),
        star=torch.tensor([0]),
        ref_logp=torch.full((1, 3, 2), -1.5),
    )


def test_ipo_by_hand():
    load_plugins([str(FILES["ipo"])])
    scores = one_list()
    logp = scores.logp
    # h = 1, 0, -2; margins 1 and 3; 1 / (2 tau) = 2: ((1 - 2)^2 + (3 - 2)^2) / 2 = 1
    cfg = AlignConfig(objective="ipo", ipo={"tau": 0.25})
    loss, logs = objective("ipo").loss(scores, cfg)
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    assert logp.grad is not None
    assert logp.grad[0, 0].sum() == pytest.approx(0.0, abs=1e-6)
    assert OBJECTIVES["ipo+sft"].loss(scores, cfg)[0].item() > loss.item()
    assert "loss/contrast" in logs
