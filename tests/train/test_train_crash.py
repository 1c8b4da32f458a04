"""kill −9 at random moments, one of them inside a save: the small edition of
benchmarks/crash_resume.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "crash_resume.py"


def test_killed_runs_end_with_the_weights_of_an_undisturbed_one(tmp_path):
    options = [
        "--kills",
        "3",
        "--inside",
        "1",
        "--steps",
        "16",
        "--slow",
        "0.08",
        "--out",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    figures = result["figures"]
    assert figures["kills"] == 3
    assert figures["kills_inside_a_save"] >= 1
    assert all(result["same"].values()), result["same"]
    assert len(result["sha256"]) == 4  # SFT and RAD-DPO, final and best
