"""The benchmarks of the two starts: cells, differences and the random bed's SIDs, without any
training.
"""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        for name in ("common", "experiments.common"):  # this process goes on
            patch.setattr(importlib.import_module(name), "single_thread", lambda: None)
        names = {"start": "experiments.start.start", "geometry": "geometry"}
        yield {short: importlib.import_module(name) for short, name in names.items()}


def test_random_sids_are_distinct_and_fit_the_codebooks(benchmarks):
    codes = benchmarks["geometry"].random_sids(2000, (64, 64, 32))
    assert codes.shape == (2000, 3)
    assert len(np.unique(codes, axis=0)) == 2000
    assert (codes < (64, 64, 32)).all()
    assert len(np.unique(codes[:, :2], axis=0)) < 0.5 * 64 * 64  # later codes depend on the first


def test_a_finished_cell_is_not_made_again_and_pairs_are_compared(
    benchmarks, tmp_path, monkeypatch
):
    start = benchmarks["start"]
    made = []

    def run_cell(bed, cell, args):
        """What a cell leaves: the geometry is .1 better for every query."""
        folder = cell.folder(tmp_path)
        folder.mkdir(parents=True)
        values = np.random.default_rng(cell.seed).random((40, 4)).astype(np.float32)
        np.savez(
            folder / "values.npz", **{"judged/served": values + 0.1 * (cell.start == "geometry")}
        )
        (folder / "cell.json").write_text(json.dumps({"steps": 5}))
        made.append(cell)

    monkeypatch.setattr(start, "make_bed", lambda name, args: name)
    monkeypatch.setattr(start, "run_cell", run_cell)
    command = ["start.py", "--work", str(tmp_path), "--beds", "demo", "--seeds", "0,1", "--no-save"]
    for more in (["--only", "demo,geometry,1"], [], []):
        monkeypatch.setattr("sys.argv", [*command, *more])
        start.main()
    assert [(c.start, c.seed) for c in made] == [
        ("geometry", 1),
        ("default", 0),
        ("geometry", 0),
        ("default", 1),
    ]
    cells = list(
        start.cells(argparse.Namespace(only="", beds="demo", seeds="0,1", minutes_scale=1.0))
    )
    rows, figures, training = start.compared(tmp_path, cells)
    assert rows
    assert len(training) == 4
    found = [
        figures[f"demo/judged/served/ndcg@10/{part}"] for part in ("difference", "low", "high")
    ]
    assert found == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)


def test_queries_are_drawn_with_their_seeds(benchmarks):
    """Two seeds that agree say no more than one: the interval is that of one seed."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 200, 1))
    base = np.zeros_like(one)
    found = benchmarks["start"].differences(one, base)[0]
    twice = benchmarks["start"].differences(np.repeat(one, 2, 0), np.repeat(base, 2, 0))[0]
    assert twice == pytest.approx(found, abs=1e-9)
