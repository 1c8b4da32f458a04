"""A cell is run again by the code that made it, or it is said why that cannot be."""

import subprocess

import pytest
from typer.testing import CliRunner

from experiments.common import device
from experiments.raddpo import __main__ as main
from experiments.raddpo import rerun
from experiments.raddpo.registration import RESULTS
from experiments.raddpo.store import read_cells

STUB = """
import pathlib, sys
import sidar_stub
pathlib.Path(sys.argv[sys.argv.index("--work") + 1], "ran").write_text(
    f"{sidar_stub.NAME} {sys.argv[1]} {pathlib.Path(sys.argv[2]).name} {' '.join(sys.argv[3:4])}"
)
sys.exit({code})
"""


def git(root, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(root, text):
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", text)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository with two commits, whose code says which of them ran."""
    root = tmp_path / "repository"
    for folder in ("src", "benchmarks/evidence", "src/sidar/align"):
        (root / folder).mkdir(parents=True)
    git(root, "init", "-q")
    (root / "src/sidar_stub.py").write_text("NAME = 'first'\n")
    (root / "benchmarks/evidence/__init__.py").write_text("")
    (root / "benchmarks/evidence/__main__.py").write_text(STUB.replace("{code}", "3"))
    first = commit(root, "first")
    (root / "src/sidar_stub.py").write_text("NAME = 'second'\n")
    (root / "src/sidar/align/x.py").write_text("")
    (root / "experiments/raddpo").mkdir(parents=True)
    (root / "experiments/raddpo/__main__.py").write_text(STUB.replace("{code}", "0"))
    second = commit(root, "second")
    fixes = [
        rerun.Fix(second, "a fix of everything", {}),
        rerun.Fix(second, "a fix of RDRW", {"rdrw": True}),
    ]
    monkeypatch.setattr(rerun, "read_fixes", lambda: fixes)
    return root, first, second


def cell(commit, **align):
    kind = "align" if align else "baseline"
    cpu = device()["cpu"]
    facts = {"cell": "x.s0", "kind": kind, "commit": commit, "device": {"cpu": cpu}}
    return facts | {"config": {"align": align}}


def test_a_cell_is_run_by_the_code_of_its_commit(history, tmp_path):
    root, first, second = history
    work = tmp_path / "work"
    assert rerun.rerun_at_commit(cell(first), work, "cpu", root) == 3
    ran = (work / f"at-{first[:12]}" / "ran").read_text()
    assert ran == "first rerun x.s0.json --work"
    assert rerun.rerun_at_commit(cell(f"{second}+changes"), work, "cpu", root) == 0
    ran = (work / f"at-{second[:12]}" / "ran").read_text()
    assert ran == "second rerun x.s0.json --head"
    assert len(git(root, "worktree", "list").splitlines()) == 1  # none is left behind


def test_fixes_that_a_cell_was_made_without_are_named(history):
    root, first, second = history
    named = [fix.what for fix in rerun.later_fixes(cell(first, rdrw=True), root)]
    assert named == ["a fix of everything", "a fix of RDRW"]
    assert [fix.what for fix in rerun.later_fixes(cell(first), root)] == ["a fix of everything"]
    assert rerun.later_fixes(cell(second, rdrw=True), root) == []
    lines = rerun.history(cell(first), root)
    assert "1 later commits touch its code" in lines[0]
    assert lines[1].endswith("a fix of everything")
    elsewhere = rerun.history(cell(first) | {"device": {"cpu": "made up"}}, root)
    assert "another kind of CPU (made up)" in elsewhere[-1]


def test_a_commit_that_is_gone_is_said_to_be(history):
    root, _, _ = history
    lines = rerun.history(cell("0" * 40), root)
    assert "not in the history of this repository" in lines[0]
    assert "--head" in lines[0]
    assert lines[1].endswith("a fix of everything")  # it may be without any of them
    with pytest.raises(ValueError, match="could not check 000000000000 out"):
        rerun.rerun_at_commit(cell("0" * 40), root / "work", "cpu", root)


def test_the_known_fixes_are_commits_with_reasons():
    fixes = rerun.read_fixes()
    assert fixes
    assert all(fix.what and len(fix.commit) >= 7 for fix in fixes)


def test_the_command_names_what_it_cannot_find(monkeypatch):
    found = CliRunner().invoke(main.app, ["rerun", "radpo.s0"])
    assert isinstance(found.exception, ValueError)
    assert "raddpo.s0" in str(found.exception)
    kept = read_cells(RESULTS)
    monkeypatch.setattr(rerun, "has_commit", lambda commit, root=None: False)
    found = CliRunner().invoke(main.app, ["rerun", next(iter(kept))])
    assert found.exit_code == 2
    assert "cannot be checked out" in found.output


def test_what_differs_is_named_the_bed_first():
    was = {"bed": {"lists": "a" * 64, "sids": "b" * 64}, "figures": {"x": 1.0, "y": float("nan")}}
    was["mechanism"] = {}
    now = {"bed": {"lists": "a" * 64, "sids": "c" * 64}, "figures": {"x": 1.5, "y": float("nan")}}
    now["mechanism"] = {"z": 2.0}
    assert list(rerun.differing(was, now).items()) == [
        ("bed/sids", ("b" * 12, "c" * 12)),
        ("figures/x", (1.0, 1.5)),
        ("mechanism/z", (None, 2.0)),
    ]
    assert rerun.differing(was, was) == {}
