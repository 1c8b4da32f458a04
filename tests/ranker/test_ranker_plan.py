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
