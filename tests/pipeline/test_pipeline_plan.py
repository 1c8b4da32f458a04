"""What identifies the user's own files, so that a changed one makes its stages stale."""

from sidar.artifacts import sha256_file
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
