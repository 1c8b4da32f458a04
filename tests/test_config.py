import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sidar.config import Config, load_config
from sidar.pipeline.template import EXAMPLES, USUAL, commented_yaml, json_schema
from sidar.pipeline.variants import ALL, VARIANTS, variants


def test_the_commented_template_is_exactly_the_defaults():
    assert Config.model_validate(yaml.safe_load(commented_yaml(full=True))) == Config()
    short = commented_yaml()
    assert Config.model_validate(yaml.safe_load(short)) == Config()
    assert (
        len(
            [
                line
                for line in short.splitlines()
                if line.strip() and not line.lstrip().startswith("#")
            ]
        )
        < 40
    )
    keys = {
        f"{part}.{key}"
        for part, keys in yaml.safe_load(short).items()
        if isinstance(keys, dict)
        for key in keys
    }
    assert keys == {key for key in USUAL if "." in key}


def test_the_examples_of_the_template_are_options_too():
    for key, example in EXAMPLES.items():
        part, name = key.split(".")
        Config.model_validate({part: {name: yaml.safe_load(example)}})
    assert set(json.loads(json_schema())["properties"]) == set(Config.model_fields)


def test_overrides_are_yaml_and_paths_follow_the_file(tmp_path):
    file = tmp_path / "sidar.yaml"
    file.write_text("catalogue: {path: items.csv}\nsft: {steps: 5}\n")
    cfg = load_config(
        file, ["sft.steps=7", "sid.codebook_sizes=[8, 4, 2]", "lm.lora={r: 4}", "name=x"]
    )
    assert (cfg.sft.steps, cfg.sid.codebook_sizes, cfg.lm.lora.r) == (7, [8, 4, 2], 4)
    assert Path(cfg.catalogue.path) == tmp_path / "items.csv"
    assert cfg.run_dir == tmp_path / "runs" / "x"


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("sfft: {}", [], r"sfft: there is no such option; did you mean sft\?"),
        ("lm: {lora: {rank: 8}}", [], r"lm\.lora\.rank: .*want one of r, alpha, "),
        ("evaluate: {sets: [{querys: q}]}", [], r"sets\.0\.querys: .*did you mean queries\?"),
        ("sid: {method: pq}\nplugin: [mine]", [], r": plugin: .*plugins\?; sid\.method: 'pq'"),
        ("sft: {steps: many}", [], "sft.steps"),
        ("[1, 2]", [], "must hold a mapping"),
        ("a: [", [], "not valid YAML"),
        ("name: x", ["steps"], "not key=value"),
        ("name: x", ["name.y=1"], "name is not a section"),
        ("name: x", ["seed=["], "is not a YAML value"),
        ("sft: {steps: 0}", ["align.batch_size=0"], r"sft\.steps.*; align\.batch_size"),
        (
            "sid: {method: rqkmean}",
            [],
            r"sid\.method.*'rqkmean' is not one of acrq, .*rqkmeans, .*table",
        ),
        ("name: x", ["sid.method=rqkmean"], r"sid\.method.*'rqkmean' is not one of"),
        (
            "align: {objective: raddop}",
            [],
            r"align\.objective.*'raddop' is not one of adagrpo, .*orpo\+sft, raddpo, ",
        ),
        (
            "split: {test_day: 8, test_days: 2}",
            [],
            r"split\.test_day and split\.test_days both say when the test is",
        ),
        (
            "split: {test_day: 8, test_from: 2026-11-01}",
            [],
            r"split\.test_day and split\.test_from both",
        ),
        (
            "split: {valid_day: -2, valid_days: 1}",
            [],
            r"split\.valid_day and split\.valid_days both",
        ),
        ("split: {test_from: yesterday}", [], r"split\.test_from.*'yesterday' is neither a date"),
        ("split: {test_fraction: 0.5, valid_fraction: 0.5}", [], "leave nothing to train on"),
        ("split: {test_days: 0}", [], r"split\.test_days.*greater than or equal to 1"),
        ("data: {held_out: [{queries: q.tsv, match: close}]}", [], r"data\.held_out\.0\.match"),
        (
            "sid: {codebook_sizes: [8, 8]}",
            [],
            "sid.codebook_sizes has 2 entries but sid.levels is 3",
        ),
    ],
)
def test_wrong_configs_name_the_field(tmp_path, text, overrides, says):
    file = tmp_path / "sidar.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_config(file, overrides)


def test_every_built_in_tokenizer_is_registered_under_its_name():
    from sidar.extensions import TOKENIZERS

    for name in TOKENIZERS.builtin:
        assert TOKENIZERS[name].method == name


def test_every_built_in_objective_is_registered_under_its_name():
    from sidar.extensions import OBJECTIVES

    for name in OBJECTIVES.builtin:
        assert OBJECTIVES[name].name == name


def test_every_built_in_channel_is_registered_under_its_name():
    from sidar.extensions import CHANNELS

    for name in CHANNELS.builtin:
        assert CHANNELS[name].name == name


def test_a_warm_start_and_models_that_are_there_follow_the_file_too(tmp_path, monkeypatch):
    shop, elsewhere = tmp_path / "shop", tmp_path / "elsewhere"
    for folder in (
        elsewhere,
        *(shop / name for name in ("runs/tow/dense/model", "lms/qwen", "minilm", "hashing")),
    ):
        folder.mkdir(parents=True)
    (shop / "sidar.yaml").write_text("embed: {model: runs/tow/dense/model}\n")
    monkeypatch.chdir(elsewhere)
    cfg = load_config("../shop/sidar.yaml", ["warm_start=runs/day1/bundle", "lm.backbone=lms/qwen"])
    assert cfg.embed.model == str(shop / "runs/tow/dense/model")
    assert cfg.lm.backbone == str(shop / "lms/qwen")
    assert cfg.warm_start == str(shop / "runs/day1/bundle")  # there or not: it can be nothing else
    for name in ("minilm", "hashing", "hashing:64", "Qwen/Qwen3-0.6B", str(elsewhere)):
        assert load_config(shop / "sidar.yaml", [f"embed.model={name}"]).embed.model == name
    assert load_config(shop / "sidar.yaml").lm.backbone == "embedded"
    assert load_config(shop / "sidar.yaml").warm_start is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2026-11-01", "2026-11-01"),
        ("'2026-11-01'", "2026-11-01"),
        ("2026-11-01 12:30:00", "2026-11-01T12:30:00+00:00"),
        ("2026-11-01T00:30:00+01:00", "2026-10-31T23:30:00+00:00"),
        ("'2026-11-01T12:30:00.000001Z'", "2026-11-01T12:30:00.000001+00:00"),
        ("null", None),
    ],
)
def test_the_start_of_the_test_may_be_written_as_a_date_or_a_time(tmp_path, text, kept):
    (tmp_path / "sidar.yaml").write_text(f"split: {{test_from: {text}}}")
    cfg = load_config(tmp_path / "sidar.yaml")
    assert cfg.split.test_from == kept
    assert Config.model_validate(cfg.model_dump(mode="json")) == cfg


def test_held_out_files_follow_the_file_and_match_near_unless_told(tmp_path):
    (tmp_path / "sidar.yaml").write_text(
        "data: {held_out: [q.tsv, {queries: s.tsv, match: exact}]}"
    )
    held = load_config(tmp_path / "sidar.yaml").data.held_out
    assert [(h.queries, h.match) for h in held] == [
        (str(tmp_path / "q.tsv"), "near"),
        (str(tmp_path / "s.tsv"), "exact"),
    ]


def test_a_missing_config_names_the_next_step(tmp_path):
    with pytest.raises(ValueError, match="sidar init"):
        load_config(tmp_path / "none.yaml")


def test_variants_share_everything_but_what_their_name_says():
    base = Config().align
    rows = variants(base, "all")
    assert [row.label for row in rows] == list(ALL)
    for row in rows:
        changed = {k for k, v in row.model_dump().items() if v != base.model_dump()[k]} - {
            "label",
            "objective",
        }
        assert changed == set(VARIANTS[row.label]) - {"objective"}
    with pytest.raises(ValueError, match="unknown variants nope"):
        variants(base, "raddpo, nope")


def test_every_variant_names_a_known_objective():
    from sidar.align import objective

    for row in variants(Config().align, ",".join(VARIANTS)):
        assert objective(row.objective).name == row.objective


def test_serving_takes_host_port_and_bundle_from_the_config(tmp_path, monkeypatch):
    import uvicorn

    from sidar.cli import service
    from sidar.serve import bundle

    (tmp_path / "sidar.yaml").write_text("name: shop\nserve: {port: 9123}\n")
    asked = []
    monkeypatch.setattr(
        bundle, "open_bundle", lambda folder: asked.append(folder) or SimpleNamespace(label="m")
    )
    monkeypatch.setattr(
        uvicorn, "run", lambda app, **options: asked.append((options["host"], options["port"]))
    )
    service.serve(config=tmp_path / "sidar.yaml")
    assert asked == [str(tmp_path / "runs" / "shop" / "bundle"), ("127.0.0.1", 9123)]


def test_serving_refuses_two_bundles_of_one_label(tmp_path, monkeypatch):
    import uvicorn

    from sidar.cli import service
    from sidar.serve import bundle

    monkeypatch.setattr(bundle, "open_bundle", lambda folder: SimpleNamespace(label="raddpo"))
    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append(app))
    for pair in (["a=X", "a=Y"], ["X", "Y"], ["X", "raddpo=Y"]):
        with pytest.raises(
            ValueError, match=r"X and --bundle Y are both labelled '(a|raddpo)'.*--bundle NAME=Y"
        ):
            service.serve(bundle=pair)
    assert not served
    service.serve(bundle=["a=X", "b=Y"])
    assert len(served) == 1


def test_a_stage_depends_on_what_it_reads_and_not_on_its_label():
    from sidar.pipeline.plan import stages

    one, other = (Config.model_validate({"align": {"label": label}}) for label in (None, "raddpo"))
    table = {stage.name: stage for stage in stages(one)}
    # the cut is made at packing
    assert not {"sft.max_positives", "preference.max_positives"} & {*table["data"].keys}
    assert {"sft", "preference"} & {*table["sft"].keys, *table["align-raddpo"].keys} == {
        "sft",
        "preference",
    }
    assert table["align-raddpo"].config(one) == table["align-raddpo"].config(other)
    assert [stage.name for stage in stages(other)] == list(table)


ALIGNED = "align-raddpo"
#: The stages that an option makes stale by itself, by the longest name that fits; those behind them
#: follow by inputs.
STALE = {
    "seed": {"data", "sid", "sft", ALIGNED, "dense", "answer", "evaluate"},
    "warm_start": {"data", "sid", "sft"},
    **{
        name: {"data"}
        for name in ("catalogue", "events", "users", "split", "data.held_out", "privacy")
    },
    "privacy.min_users": set(),  # of a bundle that leaves the machine
    "embed": {"embed", "dense", "answer", "bundle"},
    "embed.fields": {"embed", "sft", "dense", "answer", "bundle"},
    "sid": {"sid"},
    "lm": {"sft"},
    "sft": {"sft"},
    "sft.max_positives": {"sft", "dense"},
    "sft.positives": {"sft", ALIGNED},  # what a null of align.positives means
    "preference": {ALIGNED},
    "preference.negatives": {"data", ALIGNED},
    "preference.debias": {"data", ALIGNED},
    "align": {ALIGNED},
    "align.label": set(),
    # read where the objective learns from rollouts, which RAD-DPO does not (next test)
    **{
        f"align.{name}": set()
        for name in ("reward", "rewards", "rollouts", "grpo", "adagrpo", "eggrpo", "recast")
    },
    "decode": {"answer", "bundle", "evaluate"},
    "memory": {"answer"},
    "ranker": set(),  # off by default; its stage is in tests/ranker
    "dense": {"dense"},
    **{
        f"dense.{name}": {"answer", "evaluate"}
        for name in ("index", "coarse_view", "lists", "nprobe")
    },
    "evaluate": {"evaluate"},
    "channels": {"evaluate"},
    "progressive": set(),  # its stages are there only where it names some (tests/pipeline)
    **{name: set() for name in ("alarms", "serve", "name", "device", "threads", "runs")},
    "plugins": set(),  # the file of a part counts where the part is used (tests/extending)
}
INPUTS = {
    "data": (),
    "embed": ("data",),
    "sid": ("data", "embed"),
    "sft": ("data", "embed", "sid"),
    ALIGNED: ("data", "sid", "sft"),
    "dense": ("data",),
    "index": ("data", "sid"),
    "answer": ("data", "embed", "sid", "index", ALIGNED),
    "bundle": ("data", "embed", "sid", "index", "answer", ALIGNED),
    "evaluate": ("data", "embed", "sid", "index", "answer", "sft", ALIGNED, "dense"),
}


def another(value):
    """Another value of an option's kind; whether the option may have it plays no part here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return (
        {"other": "value"}
        if isinstance(value, dict)
        else ["other"]
        if isinstance(value, list)
        else "other"
    )


def changed_by(part, names):
    """``part`` of a config with another value of the option ``names``, unchecked."""
    name, *rest = names
    value = getattr(part, name)
    return part.model_copy(update={name: changed_by(value, rest) if rest else another(value)})


def test_each_option_makes_exactly_its_stages_stale():
    from sidar.pipeline.plan import stages
    from sidar.pipeline.stage import options

    cfg = Config()
    table = stages(cfg, dense=True)
    before = {stage.name: stage.config(cfg) for stage in table}
    wrong = {}
    for option in options(cfg.model_dump()):
        names = option.split(".")
        longest = next(
            ".".join(names[:n]) for n in range(len(names), 0, -1) if ".".join(names[:n]) in STALE
        )  # a new section without an entry stops here
        # of values that the option cannot have
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            other = changed_by(cfg, names)
            stale = {stage.name for stage in table if stage.config(other) != before[stage.name]}
        if stale != STALE[longest]:
            wrong[option] = stale
    assert wrong == {}
    assert {stage.name: stage.inputs for stage in table} == INPUTS


@pytest.mark.parametrize("option", ["reward", "rollouts.group", "grpo.kl", "adagrpo.tau"])
def test_options_of_reinforcement_make_a_model_that_learned_from_rollouts_stale(option):
    from sidar.pipeline.plan import stages

    cfg = Config.model_validate({"align": {"objective": "adagrpo"}})
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        other = changed_by(cfg, ["align", *option.split(".")])
        before, after = ({s.name: s.config(c) for s in stages(cfg)} for c in (cfg, other))
    assert {name for name in before if before[name] != after[name]} == {"align-adagrpo"}


def test_an_option_newer_than_a_folder_had_its_default(tmp_path):
    from sidar.artifacts import write_artifact
    from sidar.pipeline.stage import Stage

    cfg = Config.model_validate(
        {"sft": {"mixture": {"query": 1.0}}, "events": {"columns": {"query": "q"}}}
    )
    keys = ("seed", "sft", "events", "align.beta")
    stage = Stage("sft", keys, (), lambda cfg, inputs, out, work: {})
    old = stage.config(cfg)
    del old["sft"]["weight_decay"], old["align.beta"]
    with write_artifact(tmp_path / "sft", "sft", config=old):
        pass
    assert stage.why_stale(cfg, tmp_path) is None
    for section, name, value in (
        ("sft", "weight_decay", 0.5),  # a new option, not at its default
        ("align", "beta", 1.0),
        # no option of its own, though 0.35 is the default's share
        ("sft", "mixture", {"query": 1.0, "pseudo": 0.35}),
        ("events", "columns", {}),
    ):
        other = cfg.model_copy(deep=True)
        setattr(getattr(other, section), name, value)
        assert stage.why_stale(other, tmp_path) == f"config changed: {section}.{name}"


def align_stage(cfg):
    from sidar.pipeline.plan import stages

    return {stage.name: stage for stage in stages(cfg)}[cfg.align.folder]


def written(folder, stage, config, inputs):
    from sidar.artifacts import write_artifact

    with write_artifact(folder / stage.name, stage.name, config=config, inputs=inputs):
        pass


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("raddpo", {"beta": 0.5, "positives": "mean"}),
        ("raddpo-paper", {"beta": 2.0, "positives": "mean"}),
        ("simpo+sft", {"beta": 2.0, "gamma": 0.25, "positives": "mean"}),
        ("orpo", {"lam": 0.1, "positives": "mean"}),
        ("sft", {"positives": "mean"}),
    ],
)
def test_an_aligned_folder_records_the_values_that_its_objective_used(tmp_path, name, values):
    cfg = Config.model_validate({"align": {"objective": name}})
    stage = align_stage(cfg)
    recorded = stage.config(cfg)
    unused = {"beta", "gamma", "lam"} - set(values)
    assert {key: recorded[f"align.{key}"] for key in values} == values
    assert {recorded[f"align.{key}"] for key in unused} <= {None}
    hashes = stage.input_hashes(cfg, tmp_path)
    written(tmp_path, stage, recorded, hashes)
    assert stage.why_stale(cfg, tmp_path) is None
    stated = Config.model_validate({"align": {"objective": name, **values}})
    # null and the value behind it are the same request
    assert stage.why_stale(stated, tmp_path) is None
    for key, value in values.items():
        other = Config.model_validate(
            {"align": {"objective": name, key: "flat" if value == "mean" else 9.0}}
        )
        assert stage.why_stale(other, tmp_path) == f"config changed: align.{key}"
    flat = Config.model_validate({"align": {"objective": name}, "sft": {"positives": "flat"}})
    assert stage.why_stale(flat, tmp_path) == "config changed: align.positives"  # null = as in sft
    for key in values:  # an option newer than the folder had its default
        written(tmp_path, stage, {k: v for k, v in recorded.items() if k != f"align.{key}"}, hashes)
        assert stage.why_stale(cfg, tmp_path) is None


def test_a_null_of_an_older_version_is_stale_with_a_reason(tmp_path):
    cfg = Config()
    stage = align_stage(cfg)
    older = stage.config(cfg) | {"align.beta": None}
    written(tmp_path, stage, older, stage.input_hashes(cfg, tmp_path))
    said = (
        "align.beta was recorded as null by an older version, which does not say which value "
        "it used"
    )
    assert stage.why_stale(cfg, tmp_path) == said
    stated = Config.model_validate({"align": {"beta": 0.5, "steps": 7}})
    assert stage.why_stale(stated, tmp_path) == f"config changed: align.steps; {said}"
    older |= {"align.positives": None}
    written(tmp_path, stage, older, stage.input_hashes(cfg, tmp_path))
    assert stage.why_stale(cfg, tmp_path) == (
        "align.beta, align.positives were recorded as null by an older version, which does not "
        "say which values it used"
    )
    orpo = Config.model_validate({"align": {"objective": "orpo", "label": "raddpo"}})
    written(tmp_path, stage, stage.config(orpo), stage.input_hashes(cfg, tmp_path))
    assert (
        stage.why_stale(cfg, tmp_path) == "config changed: align.objective, align.beta, align.lam"
    )


def test_a_data_folder_with_cut_lists_is_stale_with_a_reason(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sidar.artifacts import write_artifact
    from sidar.pipeline.plan import stages

    cfg = Config()
    stage = {each.name: each for each in stages(cfg)}["data"]
    older = stage.config(cfg) | {"preference.max_positives": 3, "sft.max_positives": 8}
    for longest, reason in ((2, None), (3, "an older version cut the positives in lists.parquet")):
        with write_artifact(tmp_path / "data", "data", config=older) as draft:
            table = pa.table(
                {"positives": pa.array([[0], list(range(longest))], pa.list_(pa.int32()))}
            )
            for name in ("lists.parquet", "sft.parquet"):
                pq.write_table(table, draft.path / name)
        found = stage.why_stale(cfg, tmp_path)
        assert found is None if reason is None else str(found).startswith(reason)


def test_an_upgrade_keeps_the_data_of_the_older_form(tmp_path):
    """Older data stages wrote two day numbers by default and counted the evaluation sets' files as
    inputs.
    """
    from sidar.artifacts import write_artifact
    from sidar.pipeline.plan import stages

    (tmp_path / "log.csv").write_text("x")
    cfg = Config.model_validate({"events": {"path": str(tmp_path / "log.csv")}})
    data = stages(cfg)[0]
    old = data.config(cfg)
    del old["data.held_out"]
    old["split"] = {"unit": "day", "valid_day": -2, "test_day": -1, "max_history": 20}
    old |= {"evaluate.max_queries": 5, "evaluate.sets": [], "evaluate.targets": ["click"]}
    inputs = {**data.input_hashes(cfg, tmp_path), "file:judged.tsv": "0"}
    with write_artifact(tmp_path / "data", "data", config=old, inputs=inputs):
        pass
    assert data.why_stale(cfg, tmp_path) is None
    cfg.split.test_days = 2
    assert data.why_stale(cfg, tmp_path) == "config changed: split.test_days"
    cfg.split.test_days = None
    cfg.data.held_out = []
    assert data.why_stale(cfg, tmp_path) == "config changed: data.held_out"


def test_no_stage_but_evaluate_reads_its_settings():
    from sidar.pipeline.plan import stages

    for stage in stages(Config.model_validate({"decode": {"rerank": "dense"}}), dense=True):
        asked = [key for key in stage.keys if key.partition(".")[0] == "evaluate"]
        assert (stage.name == "evaluate") == bool(asked), stage.name


def test_held_out_files_are_inputs_by_their_content(tmp_path):
    from sidar.pipeline.plan import stages

    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "q.tsv").write_text("query\na\n")
    held = [str(tmp_path / "q.tsv"), str(tmp_path / "other" / "q.tsv")]
    cfg = Config.model_validate({"data": {"held_out": held}})
    data = stages(cfg)[0]
    seen = [data.input_hashes(cfg, tmp_path)]
    for path in held:
        Path(path).write_text("query\nb\n")
        seen.append(data.input_hashes(cfg, tmp_path))
    assert seen[0] != seen[1] != seen[2]


def test_a_path_written_before_it_was_anchored_makes_nothing_stale(tmp_path):
    from sidar.artifacts import write_artifact
    from sidar.pipeline.stage import Stage

    stage = Stage("sft", ("warm_start", "embed", "lm"), (), lambda cfg, inputs, out, work: {})
    (tmp_path / "enc").mkdir()
    (tmp_path / "lms").mkdir()
    (tmp_path / "sidar.yaml").write_text(
        "{warm_start: runs/a/bundle, embed: {model: enc}, lm: {backbone: lms}}"
    )
    cfg = load_config(tmp_path / "sidar.yaml")
    old = stage.config(cfg)
    old["warm_start"], old["embed"]["model"], old["lm"]["backbone"] = (
        "runs/a/bundle",
        "./enc",
        "lms",
    )
    with write_artifact(tmp_path / "sft", "sft", config=old):
        pass
    assert cfg.embed.model == str(tmp_path / "enc")
    assert stage.why_stale(cfg, tmp_path) is None
    for key, value in (
        ("warm_start", "runs/b/bundle"),
        ("embed.model", "minilm"),
        ("lm.backbone", "embedded"),
    ):
        other = load_config(tmp_path / "sidar.yaml", [f"{key}={value}"])
        assert stage.why_stale(other, tmp_path) == f"config changed: {key}"
    cfg.warm_start = None
    assert stage.why_stale(cfg, tmp_path) == "config changed: warm_start"


def test_a_device_that_is_not_there_is_named():
    from sidar.precision import resolve_device

    assert resolve_device("cpu") == "cpu"
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=device):
            resolve_device(device)
