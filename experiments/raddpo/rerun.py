"""Run a kept cell again and compare every figure, with the code that made it or with this one."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.common import ROOT, device
from experiments.raddpo.plan import Cell
from experiments.raddpo.registration import HERE
from experiments.raddpo.run import Settings, run
from experiments.raddpo.store import Facts, read_cells

#: What a cell runs: a change elsewhere cannot change its figures.
PARTS = (
    *("align", "baselines", "data", "decode", "embed", "evaluate"),
    *("fitting", "index", "lm", "sid", "simulate", "train"),
)
CODE = tuple(f"src/sidar/{part}" for part in PARTS)


@dataclass(frozen=True)
class Fix:
    """A change of the code after which a cell has other values."""

    commit: str
    what: str
    align: dict[str, Any]  # settings of `align` that a cell must have for it to matter; {} = all

    def concerns(self, facts: Facts) -> bool:
        """Whether a cell changes with it."""
        used = facts["config"]["align"] if facts["kind"] == "align" else {}
        return all(used.get(name) == value for name, value in self.align.items())


def read_fixes(path: Path = HERE / "fixes.yaml") -> list[Fix]:
    """Return the known fixes, oldest first."""
    return [
        Fix(entry["commit"], entry["what"], entry.get("align", {}))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


# ---------------------------------------------------------------------- history


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)


def has_commit(commit: str, root: Path = ROOT) -> bool:
    """Whether the history of ``root`` holds ``commit``."""
    return not _git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode


def later_fixes(facts: Facts, root: Path = ROOT) -> list[Fix]:
    """Return the known fixes that a cell was made without.

    Where the cell's commit is gone, these are all that concern it.
    """
    commit = base_commit(facts)
    known = has_commit(commit, root)
    return [
        fix
        for fix in read_fixes()
        if fix.concerns(facts)
        and not (
            known and not _git(root, "merge-base", "--is-ancestor", fix.commit, commit).returncode
        )
    ]


def base_commit(facts: Facts) -> str:
    """The commit of a cell, without the mark of uncommitted changes."""
    return str(facts["commit"]).partition("+")[0]


def history(facts: Facts, root: Path = ROOT) -> list[str]:
    """Return what a reader must know of the code between a cell and this checkout."""
    commit, name = base_commit(facts), facts["cell"]
    lines = []
    if has_commit(commit, root):
        changes = _git(root, "rev-list", "--count", f"{commit}..HEAD", "--", *CODE).stdout.strip()
        lines.append(f"{name} was made by {commit[:12]}; {changes} later commits touch its code.")
    else:
        lines.append(
            f"{name} was made by {commit[:12]}, which is not in the history of this repository: "
            "its code cannot be checked out. `--head` runs the cell with the code at HEAD."
        )
    if str(facts["commit"]) != commit:
        lines.append("Its code had changes that were not committed.")
    lines += [
        f"A later fix ({fix.commit}) changed it: {fix.what}" for fix in later_fixes(facts, root)
    ]
    cpu = (facts.get("device") or {}).get("cpu", "")
    if cpu != device()["cpu"]:
        lines.append(
            f"It was made on another kind of CPU ({cpu}), where k-means in bf16 gives other SIDs."
        )
    return lines


# ---------------------------------------------------------------------- running


def differing(was: Facts, now: Facts) -> dict[str, tuple[Any, Any]]:
    """Return {figure: (was, is)} of the figures that differ, what the bed is made of first."""
    found = {
        f"bed/{name}": (value[:12], now["bed"][name][:12])
        for name, value in was["bed"].items()
        if now["bed"][name] != value
    }
    for part in ("figures", "mechanism"):
        for name in sorted({*was[part], *now[part]}):
            old, new = was[part].get(name), now[part].get(name)
            both_nan = old is not None and new is not None and math.isnan(old) and math.isnan(new)
            if old != new and not both_nan:
                found[f"{part}/{name}"] = (old, new)
    return found


def rerun(
    was: Facts, settings: Settings, say: Callable[[str], None] = print
) -> dict[str, tuple[Any, Any]]:
    """Run a cell again with this code and return what differs.

    ``settings.results`` is a folder for this alone. An SFT model that is no longer in the work
    folder is trained again from its specification.
    """
    cell = Cell.of(was["spec"])
    shutil.rmtree(settings.results, ignore_errors=True)
    for end in ("json", "parquet"):  # of an interrupted run
        (settings.loose / f"{cell.name}.{end}").unlink(missing_ok=True)
    if failed := run([cell], settings, say):
        raise ValueError(f"{failed[0]} failed; see above")
    return differing(was, read_cells(settings.results)[cell.name])


@contextmanager
def checked_out(commit: str, root: Path = ROOT) -> Iterator[Path]:
    """A temporary worktree of ``commit``."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        made = _git(root, "worktree", "add", "--detach", str(tree), commit)
        if made.returncode:
            raise ValueError(f"git could not check {commit[:12]} out: {made.stderr.strip()}")
        try:
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def rerun_at_commit(was: Facts, work: Path, device: str, root: Path = ROOT) -> int:
    """Run a cell with the code of its commit and return the exit code: 0 where all figures agree.

    That code compares the figures itself. Its bed is built in a folder of its own below ``work``.
    """
    commit = base_commit(was)
    with checked_out(commit, root) as tree, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{was['cell']}.json"
        path.write_text(json.dumps(was))
        moved = (tree / "experiments" / "raddpo").is_dir()
        module = "experiments.raddpo" if moved else "benchmarks.evidence"
        command = [sys.executable, "-m", module, "rerun", str(path), *(["--head"] if moved else [])]
        place = work.resolve() / f"at-{commit[:12]}"
        place.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
        done = subprocess.run(
            [*command, "--work", str(place), "--device", device], cwd=tree, env=environment
        )
        return done.returncode
