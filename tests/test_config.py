import json
from pathlib import Path

import pytest
import yaml

from sidar.config import Config, load_config
from sidar.pipeline.template import commented_yaml, json_schema
from sidar.pipeline.variants import ALL, VARIANTS, variants


def test_the_commented_template_is_exactly_the_defaults():
    assert Config.model_validate(yaml.safe_load(commented_yaml())) == Config()
    assert set(json.loads(json_schema())["properties"]) == set(Config.model_fields)


def test_overrides_are_yaml_and_paths_follow_the_file(tmp_path):
    file = tmp_path / "sidar.yaml"
    file.write_text("catalogue: {path: items.csv}\nsft: {steps: 5}\n")
    cfg = load_config(file, ["sft.steps=7", "sid.codebook_sizes=[8, 4, 2]", "lm.lora={r: 4}", "name=x"])
    assert (cfg.sft.steps, cfg.sid.codebook_sizes, cfg.lm.lora.r) == (7, [8, 4, 2], 4)
    assert Path(cfg.catalogue.path) == tmp_path / "items.csv"
    assert cfg.run_dir == tmp_path / "runs" / "x"


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("sfft: {}", [], "sfft: Extra inputs"),
        ("sft: {steps: many}", [], "sft.steps"),
        ("[1, 2]", [], "must hold a mapping"),
        ("a: [", [], "not valid YAML"),
        ("name: x", ["steps"], "not key=value"),
        ("name: x", ["name.y=1"], "name is not a section"),
        ("sid: {codebook_sizes: [8, 8]}", [], "sid.codebook_sizes has 2 entries but sid.levels is 3"),
    ],
)
def test_wrong_configs_name_the_field(tmp_path, text, overrides, says):
    file = tmp_path / "sidar.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_config(file, overrides)


def test_a_missing_config_names_the_next_step(tmp_path):
    with pytest.raises(ValueError, match="sidar init"):
        load_config(tmp_path / "none.yaml")


def test_variants_share_everything_but_what_their_name_says():
    base = Config().align
    rows = variants(base, "all")
    assert [row.label for row in rows] == list(ALL)
    for row in rows:
        changed = {k for k, v in row.model_dump().items() if v != base.model_dump()[k]} - {"label", "objective"}
        assert changed == set(VARIANTS[row.label]) - {"objective"}
    with pytest.raises(ValueError, match="unknown variants nope"):
        variants(base, "raddpo, nope")


def test_every_variant_names_a_known_objective():
    from sidar.align import objective

    for row in variants(Config().align, ",".join(VARIANTS)):
        assert objective(row.objective).name == row.objective
