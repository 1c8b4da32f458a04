"""What the ranker's stage is made from, and what is made from it."""

import pytest

from sidar.config import Config
from sidar.pipeline.plan import stages

CONFIG = Config.model_validate({"ranker": {"enabled": True}})


@pytest.mark.parametrize(
    ("section", "option", "value", "stale"),
    [
        ("ranker", "rounds", 7, {"ranker"}),
        ("ranker", "debias", "none", {"ranker"}),
        ("memory", "requests", 9, {"ranker", "answer"}),
        ("decode", "fuse", "memory", {"answer", "bundle", "evaluate"}),
    ],
)
def test_an_option_makes_exactly_its_stages_stale(section, option, value, stale):
    cfg = CONFIG
    part = getattr(cfg, section).model_copy(update={option: value})
    other = cfg.model_copy(update={section: part})
    now, then = stages(cfg), stages(other)
    changed = {a.name for a, b in zip(now, then, strict=True) if a.config(cfg) != b.config(other)}
    assert changed == stale


def test_a_model_that_the_ranker_rewards_is_made_from_it():
    cfg = CONFIG
    align = cfg.align.model_copy(update={"reward": "ranker"})
    aligned = next(stage for stage in stages(cfg, [align]) if stage.name == align.folder)
    assert "ranker" in aligned.inputs
    other = next(stage for stage in stages(cfg) if stage.name == cfg.align.folder)
    assert "ranker" not in other.inputs
    off = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"enabled": False})})
    with pytest.raises(ValueError, match=r"align\.reward is 'ranker' but no ranker is fitted"):
        stages(off, [align])
