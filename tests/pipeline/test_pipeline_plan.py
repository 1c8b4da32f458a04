"""What identifies the user's own files, so that a changed one makes its stages stale."""

from sidar.artifacts import sha256_file
from sidar.config import Config
from sidar.pipeline.plan import REINFORCEMENT, stages
from sidar.pipeline.stage import HASH_LIMIT, fingerprint


def test_a_fingerprint_follows_names_and_contents(tmp_path):
    assert fingerprint(tmp_path / "log.csv") == fingerprint(tmp_path / "log-*.csv") == "missing"
    one, two = tmp_path / "log-1.csv", tmp_path / "log-2.csv"
    one.write_text("a\n")
    assert fingerprint(one) == sha256_file(one)
    alone = fingerprint(tmp_path / "log-*.csv")
    two.write_text("b\n")
    both = fingerprint(tmp_path / "log-*.csv")
    assert len({alone, both, fingerprint(one), fingerprint(two), "missing"}) == 5
    assert fingerprint(tmp_path) == both  # the folder holds the same files
    two.write_text("c\n")
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "log-*.csv") != both


def test_a_large_file_is_known_by_size_and_time(tmp_path):
    large = tmp_path / "log.parquet"
    with large.open("wb") as file:
        file.truncate(HASH_LIMIT + 1)
    assert fingerprint(large) == f"{HASH_LIMIT + 1}:{large.stat().st_mtime_ns}"


def made_of(**align):
    """The names of a run's stages, and what its aligned model reads and is decided by."""
    cfg = Config.model_validate({"align": align})
    found = {stage.name: stage for stage in stages(cfg)}
    aligned = found[cfg.align.folder]
    return list(found), aligned.inputs, {key.partition(".")[2] for key in aligned.keys}


def test_a_reward_by_the_ranker_needs_its_stage_first():
    names, inputs, _ = made_of(objective="adagrpo", reward="ranker")
    assert names.index("ranker") < names.index("align-adagrpo")
    assert "ranker" in inputs
    for other in ({"objective": "adagrpo"}, {"objective": "dpo", "reward": "ranker"}):
        names, inputs, _ = made_of(**other)
        assert "ranker" not in [*names, *inputs]


def test_options_of_reinforcement_decide_only_models_that_learn_from_rollouts():
    assert made_of(objective="eggrpo+sft")[2] >= REINFORCEMENT
    assert not made_of(objective="raddpo")[2] & REINFORCEMENT
