"""Buckets by hash: the same in every process and language, as large as planned, independent."""

import subprocess
import sys
from hashlib import sha256

import pytest

from sidar.ab import agreement, bucket, buckets

HALVES = {"a": 50, "b": 50}


def test_the_bucket_is_the_written_formula():
    for user in ("u1", "käufer", "42"):
        place = int(sha256(f"ranker:{user}".encode()).hexdigest()[:16], 16) / 2**64
        assert bucket(user, "ranker", {"a": 3, "b": 1}) == ("a" if place < 0.75 else "b")


def test_another_process_draws_the_same():
    code = "from sidar.ab import buckets; print(''.join(buckets(map(str, range(50)), 'x', %r)))"
    done = subprocess.run(
        [sys.executable, "-c", code % HALVES], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "".join(buckets(map(str, range(50)), "x", HALVES))
    # what services have drawn must not move with a new version
    assert done.stdout.strip() == "baabaaabbbabbbbabababbabbbaabbaaabaabaabbbbaaaaabb"


def test_shares_and_independence():
    users = [f"u{i}" for i in range(20_000)]
    drawn = buckets(users, "one", {"a": 1, "b": 2, "c": 1})
    sizes = [drawn.count(name) / len(users) for name in "abc"]
    assert sizes == pytest.approx([0.25, 0.5, 0.25], abs=0.012)
    one, two = buckets(users, "one", HALVES), buckets(users, "two", HALVES)
    both = sum(x == y == "a" for x, y in zip(one, two, strict=True)) / len(users)
    assert both == pytest.approx(0.25, abs=0.012)


@pytest.mark.parametrize(
    ("experiment", "shares", "message"),
    [
        ("", HALVES, "needs a name"),
        ("x", {"a": 1}, "at least two, e.g. a=50,b=50"),
        ("x", {"a": 1, "b": 0}, "share of bucket 'b' is 0; want a positive number"),
        ("x", {"a": 1, "b": float("nan")}, "want a positive number"),
    ],
)
def test_what_is_no_experiment_is_refused(experiment, shares, message):
    with pytest.raises(ValueError, match=message):
        bucket("u", experiment, shares)


def test_agreement_counts_users_who_are_elsewhere():
    users = [f"u{i}" for i in range(10)]
    drawn = buckets(users, "x", HALVES)
    assert agreement(users, drawn, "x", HALVES).lines() == [
        "all 10 users are in the bucket that the hash of experiment 'x' gives them"
    ]
    moved = ["b" if drawn[0] == "a" else "a", *drawn[1:]]
    check = agreement(users, moved, "x", HALVES)
    assert (check.users, check.differing) == (10, 1)
    assert "1 of 10 users (10.0%)" in check.lines()[0]
    assert "--shares" in check.lines()[0]
