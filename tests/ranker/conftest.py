"""The ranker's stage on the fused shop; nobody writes into it."""

import pytest

from sidar.config import load_config
from sidar.pipeline import stages
from sidar.pipeline.rows.ranking import ranker
from sidar.pipeline.runtime import folders

SMALL = (
    *(
        "ranker.enabled=true",
        "ranker.residual=true",
        "ranker.rounds=30",
        "ranker.min_leaf=5",
        "ranker.depth=20",
    ),
    *("ranker.dcn.steps=30", "ranker.dcn.hidden=8"),
)
STAGES = ("data", "embed", "sid", "index", "sft", "align-raddpo")


@pytest.fixture(scope="session")
def ranked(fused_shop, tmp_path_factory):
    """A run folder of the fused shop's stages with ``ranker/`` beside them, and its config."""
    run = tmp_path_factory.mktemp("ranked") / "shop"
    run.mkdir()
    for name in (*STAGES, "memory.key"):
        (run / name).symlink_to(fused_shop / "runs/shop" / name)
    cfg = load_config(fused_shop / "sidar.yaml", [*SMALL, f"runs={run.parent}"])
    (run / "ranker").mkdir()
    ranker(cfg, folders(run, STAGES), run / "ranker", run / ".ranker.work")
    return cfg, run


@pytest.fixture(scope="session")
def answered(ranked):
    """The same run with the stage ``answer`` and a bundle that was told to answer by the ranker."""
    cfg, run = ranked
    decode = cfg.decode.model_copy(update={"fuse": "ranker"})
    cfg = cfg.model_copy(update={"decode": decode})
    inputs = folders(run, (*STAGES, "ranker"))
    (run / "answer").mkdir()
    report = stages.answer(cfg, inputs, run / "answer", run / ".answer.work")
    (run / "bundle").mkdir()
    stages.bundle(cfg, folders(run, (*STAGES, "answer")), run / "bundle", run / ".bundle.work")
    return cfg, run, report
