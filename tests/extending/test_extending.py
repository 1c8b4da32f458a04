"""Parts that live outside the package, found by path and by entry point, taken through a run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from sidar.align import objective
from sidar.artifacts import read_manifest
from sidar.baselines import ChannelInputs
from sidar.baselines.channel import fitted_channel
from sidar.config import AlignConfig, Config, load_config
from sidar.data import open_dataset, toy
from sidar.data.training.priors import Priors
from sidar.embed import load_items
from sidar.evaluate import Truth
from sidar.evaluate.measures.plugin_metrics import graded_ranks, score_metrics
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.table import check_table, read_scores
from sidar.extensions import OBJECTIVES, REGISTRIES, TOKENIZERS, load_plugins
from sidar.pipeline import plan
from sidar.sid import load_sids, load_tokenizer
from sidar.sid.plugin_checks import check_reload
from sidar.sid.stage import fit_catalogue
from sidar.types import CandidateScores, Catalogue, Prompt, SidInputs

HERE = Path(__file__).parent
FILES = {
    "pq": HERE / "pq_tokenizer.py",
    "ipo": HERE / "ipo_objective.py",
    "price": HERE / "price_reward.py",
    "words": HERE / "words_channel.py",
    "rbp": HERE / "rbp_metric.py",
}
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
    "channels": {"words": {"clicks": 0.2}},
    "evaluate": {
        **{"max_queries": 4, "bootstrap": 20, "invalid_queries": 1},
        **{"metrics": ["rbp"], "rbp": {"persistence": 0.5}},
    },
}


@pytest.fixture(autouse=True)
def forget_plugins(monkeypatch):
    """What one test registers is not there in the next, nor in other test files."""
    before = set(sys.modules)
    for registry in REGISTRIES:
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


def test_a_run_uses_every_part_and_records_their_options(shop):
    run = shop / "runs" / "mine"
    with pytest.raises(ValueError, match="its module under `plugins:`"):
        load_tokenizer(run / "sid")
    load_plugins([str(FILES["pq"])])
    tokenizer = load_tokenizer(run / "sid")
    assert (type(tokenizer).__name__, tokenizer.options.iterations) == ("ProductQuantiser", 3)
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert {"sft", "ipo", "quantised-dense", "words"} <= set(scores["kinds"])
    assert read_manifest(run / "sid").config["sid"]["pq"] == {"iterations": 3}
    assert read_manifest(run / "align-ipo").config["align.ipo"] == {"tau": 0.5}
    about = read_manifest(run / "evaluate").config
    assert about["channels"] == {"words": {"clicks": 0.2}}
    assert about["evaluate"]["rbp"] == {"persistence": 0.5}
    assert (run / "bundle").is_dir()


def test_a_channel_and_a_metric_stand_in_values_table_tests_and_report(shop):
    folder = shop / "runs" / "mine" / "evaluate"
    scores = read_scores(folder)
    assert scores["about"]["words"] == "share of the query's words in the title + 0.2 x clicks"
    assert scores["fusions"]["bm25+dense+words"]["parts"] == ["bm25", "dense", "words"]
    values = PerQuery.read(folder)
    (name,) = [name for name in scores["sets"] if "/" not in name]
    cells = scores["sets"][name]["systems"]
    for system in ("words", "bm25", "sft", "bm25+dense+words"):
        ids, found = values.get(name, system, "item/rbp")
        assert cells[system]["item/rbp"]["mean"] == pytest.approx(found.mean())
        assert cells[system]["item/rbp"]["n"] == len(ids)
    assert (values.get(name, "words", "item/rbp")[1] > 0).any()
    asked = {test["question"] for test in scores["tests"] if test["measure"] == "item/rbp"}
    assert "Does a channel of your own improve the fusion?" in asked
    assert check_table(folder) > 0
    lines = (folder / "table.md").read_text().splitlines()
    assert any(line.startswith("| Items") and line.endswith("| RBP |") for line in lines)
    assert any(line.startswith("| words |") for line in lines)
    page = (folder / "report.html").read_text()
    assert ">RBP<" in page
    assert "words" in page


def test_a_reward_trains_the_rows_of_an_experiment(shop, tmp_path):
    """The model writes SIDs, the plug-in says what they are worth, and both rows reach the table
    and the bundle.
    """
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    options = [
        *("align.reward=price", "align.rewards.price.others=0.3", "align.rollouts.group=4"),
        *("align.batch_size=8", "align.log_every=1", "align.adagrpo.gate=open"),
    ]
    names = ["--variants", "adagrpo,eggrpo"]
    done = sidar("experiment", "-c", folder / "sidar.yaml", *names, *options)
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "mine"
    assert {"sft", "adagrpo", "eggrpo"} <= set(read_scores(run / "evaluate")["kinds"])
    worth = np.log1p([price or 0.0 for price in toy.catalogue().column("price")])
    for name in ("adagrpo", "eggrpo"):
        config = read_manifest(run / f"align-{name}").config
        assert config["align.reward"] == "price"
        assert config["align.rewards"]["price"] == {"others": 0.3}
        lines = (run / f"align-{name}" / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        first = next(record for record in records if record["kind"] == "train")
        assert 0.3 * worth.min() <= first["group/reward_mean"] <= worth.max()
        assert first["rollout/logp_gap"] < 1e-3
        assert (run / f"align-{name}" / "fit.png").is_file()
    assert read_manifest(run / "bundle").config is not None
    changed = ["align.objective=adagrpo", *options, "align.rewards.price.others=0.2"]
    steps = plan(load_config(folder / "sidar.yaml", changed))
    reasons = {step.stage.name: step.reason for step in steps}
    assert reasons["align-adagrpo"] == "config changed: align.rewards.price.others"
    done = sidar("search", "red shirt", "--bundle", run / "bundle", "--k", "3")
    assert done.returncode == 0, done.stderr


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
    for override, says in (
        ("channels.words.clicks=1", "channels"),
        ("channels={}", "channels"),
        ("evaluate.rbp.persistence=0.9", "evaluate.rbp.persistence"),
        ("evaluate.metrics=[]", "evaluate.metrics"),
    ):
        assert stale(override) == {"evaluate": f"config changed: {says}"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sid.pq.iteration=3", r"sid\.pq\.iteration: .*did you mean iterations\?"),
        ("sid.pq.iterations=0", r"sid\.pq\.iterations: .*greater than or equal to 1"),
        ("sid.pqq={}", r"sid\.pqq: there is no such option; did you mean pq\?"),
        ("sid.pq=3", r"sid\.pq: want a mapping of option: value, got 3"),
        ("align.ipo.taus=1", r"align\.ipo\.taus: .*did you mean tau\?"),
        ("align.objective=iop", r"'iop' is not one of .*ipo.*its module under `plugins:`"),
        ("align.ipo+sft={tau: 1}", r"align\.ipo\+sft: this part has no options"),
        ("align.reward=prize", r"'prize' is not one of .*; did you mean price\?.*`plugins:`"),
        ("align.rewards.price.other=1", r"align\.rewards\.price\.other: .*did you mean others\?"),
        ("align.rewards.price.others=-1", r"align\.rewards\.price\.others: .*equal to 0"),
        ("channels.words.click=1", r"channels\.words\.click: .*did you mean clicks\?"),
        ("channels.words.clicks=-1", r"channels\.words\.clicks: .*greater than or equal to 0"),
        (
            "channels.wrods={}",
            r"channels: 'wrods' .* words; did you mean words\?.*under `plugins:`",
        ),
        ("channels.bm25={k1: 2}", r"channels\.bm25: is a row of every table"),
        ("evaluate.rbp.persistance=1", r"persistance: .*did you mean persistence\?"),
        ("evaluate.metrics=rbp", r"evaluate\.metrics: .*list; write \[rbp\]"),
        ("evaluate.metrics=[rpb]", r"evaluate\.metrics: .*'rpb' is not one of rbp; .*`plugins:`"),
        ("plugins=[nowhere.py]", r"yaml: plugins: '.*nowhere\.py' .*does not exist.*relative to"),
        ("plugins=[no_such_module]", r"'no_such_module' cannot be .* such as no_such_module\.py"),
    ],
)
def test_a_misspelt_option_of_a_part_is_named(tmp_path, override, says):
    (tmp_path / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.raises(ValueError, match=says):
        load_config(tmp_path / "sidar.yaml", [override])


def test_a_misspelt_option_is_refused_whatever_the_model_of_the_options_says(tmp_path):
    lenient = FILES["rbp"].read_text().replace('"rbp"', '"rbp-lenient"').replace("forbid", "ignore")
    (tmp_path / "mine.py").write_text(lenient)
    (tmp_path / "sidar.yaml").write_text("plugins: [mine.py]\nevaluate: {metrics: [rbp-lenient]}\n")
    with pytest.raises(ValueError, match=r"persistance: .*did you mean persistence\?"):
        load_config(tmp_path / "sidar.yaml", ["evaluate.rbp-lenient.persistance=0.5"])
    cfg = load_config(tmp_path / "sidar.yaml", ["evaluate.rbp-lenient.persistence=0.5"])
    assert cfg.evaluate.section("rbp-lenient").persistence == 0.5


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
        ValueError, match=r"'rqkmeans' of .* has the name of a part of sidar\.sid\.tokenizers\."
    ):
        load_plugins([str(copy)])


ENTRY_POINTS = """\
[sidar.tokenizers]
pq = pq_tokenizer:ProductQuantiser
[sidar.objectives]
ipo = ipo_objective:ipo
[sidar.rewards]
price = price_reward:PriceReward
[sidar.channels]
words = words_channel:WordOverlap
[sidar.metrics]
rbp = rbp_metric:rbp
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A PYTHONPATH on which the five files are those of an installed package."""
    site = tmp_path_factory.mktemp("site")
    about = site / "shop_parts-1.0.dist-info"
    about.mkdir()
    for file in FILES.values():
        shutil.copy(file, site)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])


def test_installed_packages_are_found_by_entry_points(installed, tmp_path):
    schema = json.loads(sidar("init", "--schema", PYTHONPATH=installed).stdout)
    for properties, part, option, default in (
        (schema["$defs"]["SidConfig"]["properties"], "pq", "iterations", 20),
        (schema["$defs"]["AlignConfig"]["properties"], "ipo", "tau", 0.1),
        (schema["$defs"]["RewardsConfig"]["properties"], "price", "others", 0.1),
        (schema["$defs"]["EvaluateConfig"]["properties"], "rbp", "persistence", 0.8),
        (schema["properties"]["channels"]["properties"], "words", "clicks", 0.1),
    ):
        assert properties[part]["properties"][option]["default"] == default
    assert sidar("init", tmp_path, "--full", PYTHONPATH=installed).returncode == 0
    text = (tmp_path / "sidar.yaml").read_text()
    written = yaml.safe_load(text)
    assert (written["sid"]["pq"], written["align"]["ipo"]) == ({"iterations": 20}, {"tau": 0.1})
    assert written["align"]["rewards"]["price"] == {"others": 0.1}
    # a channel is a row where it is named, so that it is written as an example
    assert (written["channels"], written["evaluate"]["metrics"]) == ({}, [])
    assert "# channels: {words: {clicks: 0.1}}" in text


def test_installed_parts_go_through_a_run(installed, shop, tmp_path):
    """Without ``plugins:`` the same parts train and score the same."""
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump({**SETTINGS, "plugins": []}))
    for stage in ("sid", "align-ipo", "evaluate"):
        shutil.rmtree(folder / "runs" / "mine" / stage)
    done = sidar("run", "-c", folder / "sidar.yaml", PYTHONPATH=installed)
    assert done.returncode == 0, done.stderr
    before, after = (read_scores(path / "runs/mine/evaluate") for path in (shop, folder))
    assert after == before


def test_init_writes_the_options_of_a_plugin(tmp_path):
    done = sidar("init", tmp_path, "--full", "--plugin", FILES["pq"])
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "sidar.yaml").read_text())
    assert written["sid"]["pq"] == {"iterations": 20}
    assert Config.model_validate(written).plugins == [str(FILES["pq"])]


def test_init_says_which_line_chooses_a_part(tmp_path):
    files = [argument for file in FILES.values() for argument in ("--plugin", file)]
    done = sidar("init", tmp_path, *files)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sidar.yaml").read_text()
    for line in (
        *("sid.method: pq", "align.objective: ipo", "align.reward: price"),
        "evaluate.metrics: [rbp]",
    ):
        assert f"Chosen by {line}." in text


def test_init_leaves_what_the_user_has_to_say_empty(tmp_path):
    text = (
        FILES["rbp"].read_text().replace('"rbp"', '"rbp-required"').replace("Field(0.8,", "Field(")
    )
    (tmp_path / "mine.py").write_text(text)
    done = sidar("init", tmp_path / "shop", "--plugin", tmp_path / "mine.py")
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "shop" / "sidar.yaml").read_text())
    assert written["evaluate"]["rbp-required"] == {"persistence": None}


def test_a_failed_init_leaves_no_folder(tmp_path):
    done = sidar("init", tmp_path / "shop", "--plugin", "nowhere.py")
    assert done.returncode == 2
    assert not (tmp_path / "shop").exists()


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
        (
            FILES["pq"].read_text().replace("(Tokenizer):", ":"),
            r"@register_tokenizer wants a class made of .* class X\(Tokenizer\)",
        ),
        (
            FILES["price"].read_text().replace("(ItemReward):", ":"),
            r"@register_reward wants a class made of .* class X\(Reward\)",
        ),
        (
            FILES["price"].read_text().replace("def item_scores(", "def item_score("),
            "PriceReward lacks item_scores",
        ),
        (
            FILES["words"].read_text().replace("(Channel):", ":"),
            r"@register_channel wants a class made of .* class X\(Channel\)",
        ),
        (
            FILES["rbp"].read_text().replace("(BaseModel):", ":"),
            r"the options of 'rbp' must be a subclass of pydantic\.BaseModel",
        ),
        (
            FILES["rbp"].read_text().replace(", options: RbpOptions)", ")"),
            r"rbp must take \(ranks, options\)",
        ),
        (
            FILES["ipo"].read_text().replace(", options: IpoOptions)", ")"),
            r"ipo must take \(scores, options\)",
        ),
        (
            re.sub(r"@register_tokenizer\(.*\)", "@register_tokenizer", FILES["pq"].read_text()),
            r'wants the name of the part: @register_tokenizer\("mine"\)',
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


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return Hits(", "return (", r"must return sidar\.types\.Hits, got tuple"),
        ("[:, :k]\n", "\n", r"rows and scores \(2, at most 5\), got \(2, 64\)"),
        ("best, -1)", "best + 64, -1)", "whole numbers from −1 to 63, rows of the catalogue"),
        ("best, -1)", "best * 0 + 1, -1)", "an item twice for one prompt"),
        ("values > 0\n", "np.arange(k) == 1\n", r"must put −1 \(no item\) behind the items"),
        ("np.where(found, values, 0)", "-values", "finite scores, best first"),
        ("(shared > 0) & self.alive", "shared > 0", "an item that has gone"),
        ("return self\n", "return None\n", "fit must return self, got NoneType"),
    ],
)
def test_what_a_channel_returns_is_checked(tmp_path, old, new, says):
    text = FILES["words"].read_text()
    assert old in text
    (tmp_path / "mine.py").write_text(text.replace('"words"', '"faulty"').replace(old, new))
    load_plugins(["mine.py"], tmp_path)
    with pytest.raises(ValueError, match=r"channels: 'faulty' \(.*mine\.py\): .*" + says):
        fitted_channel("faulty", toy_inputs()).hits([Prompt(QUERY), Prompt("blue")], 5)


#: A row of the toy catalogue that has gone, and a query that its title answers best.
GONE = 0
QUERY = toy.catalogue().column("title")[GONE].lower()


def test_words_by_hand():
    load_plugins([str(FILES["words"])])
    inputs = toy_inputs()
    words = set(QUERY.split())
    titles = [set(title.lower().split()) for title in inputs.catalogue.column("title")]
    shared = [len(words & title) / len(words) for title in titles]
    assert shared[GONE] == 1
    hits = fitted_channel("words", inputs, {"clicks": 0.0}).hits([Prompt(QUERY)], 64)
    found = [row for row in hits.rows[0].tolist() if row >= 0]
    best_first = np.argsort(-np.array(shared), kind="stable")
    assert found == [row for row in best_first if shared[row] and row != GONE]
    assert hits.scores[0, : len(found)] == pytest.approx([shared[row] for row in found])


def toy_inputs():
    """The toy catalogue as a channel sees it, without one product."""
    whole = toy.catalogue()
    alive = np.arange(len(whole)) != GONE
    at = whole.table.column_names.index("alive")
    catalogue = Catalogue(whole.table.set_column(at, "alive", pa.array(alive)), whole.lineage)
    counts = np.arange(len(whole))
    priors = Priors(counts, counts, 0 * counts, 0 * counts, counts)
    dataset = SimpleNamespace(catalogue=catalogue, priors=lambda: priors)
    return ChannelInputs(dataset, np.zeros((len(whole), 2), np.float32), encoder=None)


@pytest.mark.parametrize("name", ["dense", "answer", "bm25", "my channel", "a+b", "x@3"])
def test_a_channel_cannot_have_the_name_of_a_row_or_of_a_fusion(tmp_path, name):
    (tmp_path / "mine.py").write_text(FILES["words"].read_text().replace('"words"', f'"{name}"'))
    with pytest.raises(ValueError, match=f"channels: .*{re.escape(repr(name))}"):
        load_plugins(["mine.py"], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("ranks.relevant @", "2 * ranks.relevant @", r"returned 1\.\d+; its range is 0 to 1"),
        ("ranks.relevant @", "np.nan * ranks.relevant @", "returned nan; its range is 0 to 1"),
        ("@ discounts", "* discounts", r"a number per query, \(3,\), got float64 \(3, 4\)"),
    ],
)
def test_what_a_metric_returns_is_checked(tmp_path, old, new, says):
    text = FILES["rbp"].read_text()
    assert old in text
    (tmp_path / "mine.py").write_text(text.replace('"rbp"', '"faulty"').replace(old, new))
    load_plugins(["mine.py"], tmp_path)
    cfg = Config(evaluate={"metrics": ["faulty"], "faulty": {"persistence": 0.5}}).evaluate
    with pytest.raises(ValueError, match=r"evaluate\.metrics 'faulty' \(.*mine\.py\): .*" + says):
        score_metrics(cfg, *three_queries())


def three_queries():
    """Judgments of three queries, and what was returned for them (3, 4)."""
    qrels = {"a": {"0": 1.0, "1": 0.1}, "b": {"2": 1.0, "3": 1.0, "4": 0.1}, "c": {}}
    truth = Truth.build(qrels, list("abc"), int, n_rows=5)
    return truth, np.array([[1, 0, -1, -1], [2, 3, 4, 0], [0, 1, -1, -1]])


def test_rbp_by_hand():
    load_plugins([str(FILES["rbp"])])
    truth, rows = three_queries()
    cfg = Config(evaluate={"metrics": ["rbp"], "rbp": {"persistence": 0.5}}).evaluate
    # one half, one quarter, …: the first query has its item in the second place
    assert score_metrics(cfg, truth, rows)["rbp"].tolist() == [0.25, 0.75, 0.0]
    ranks = graded_ranks(truth, rows)
    np.testing.assert_allclose(ranks.grades[:, :2], [[0.1, 1], [1, 1], [0, 0]])
    np.testing.assert_allclose(ranks.ideal, [[1, 0.1, 0], [1, 1, 0.1], [0, 0, 0]])
    assert ranks.returned.sum(axis=1).tolist() == [2, 4, 2]
    assert ranks.n_relevant.tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["ndcg@10", "mrr", "recall@7", "a/b", "a[b]"])
def test_a_metric_cannot_have_the_name_of_a_built_in_measure(tmp_path, name):
    (tmp_path / "mine.py").write_text(FILES["rbp"].read_text().replace('"rbp"', f'"{name}"'))
    with pytest.raises(ValueError, match=f"evaluate.metrics: {re.escape(repr(name))}"):
        load_plugins(["mine.py"], tmp_path)


def test_a_metric_cannot_have_options_under_the_name_of_an_option(tmp_path):
    (tmp_path / "mine.py").write_text(FILES["rbp"].read_text().replace('"rbp"', '"depth"'))
    load_plugins(["mine.py"], tmp_path)
    with pytest.raises(ValueError, match="depth: is an option of Sidar"):
        load_config(None, ["evaluate.metrics=[depth]"])


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
