"""The script for a GPU at toy size on the CPU: every figure is there; a part that is cut keeps its
figures.
"""

import importlib
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


@pytest.mark.parametrize("part", ["decode", "preference", "rollouts"])
def test_every_part_runs_at_toy_size(gpu, part, tmp_path):
    gpu.PARTS[part](gpu.Bench("cpu", gpu.TOY, tmp_path / "figures"))
    figures = gpu.read_figures(tmp_path / "figures")
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    if part == "decode":
        for batch in gpu.TOY.batches:
            assert figures[f"graphs_same_sids_share_b{batch}"] == 1
            ratio = figures[f"decode_lean_over_roofline_b{batch}"]
            took, floor = figures[f"decode_lean_ms_b{batch}"], figures[f"roofline_ms_b{batch}"]
            assert ratio == pytest.approx(took / floor)
    if part == "preference":
        assert figures["preference_lists_per_second"] > 0
        assert figures["preference_pairs_over_packed"] > 0
    if part == "rollouts":
        assert figures["rollouts_gumbel_graphs_valid_share"] == 1
        assert figures["rollouts_gumbel_graphs_unique_share"] == 1


def test_the_roofline_by_hand(gpu):
    """One layer of width 2 with 1 head of 2, inner width 3, prompt 4, beam 2, two levels of 5."""
    sizes = gpu.Sizes(
        **{"hidden": 2, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "intermediate": 3},
        **{"codebooks": (5, 5), "beam": 2, "prompt": 4},
    )
    # weights: qkv 12, o 4, gate, up and down 18 = 34; keys and values 2·2·4 = 16
    prefill = 2 * 34 * 4 + 2 * 5 * 2 + 4 * 4 * 2 * 2
    step = 2 * 34 * 2 + 2 * 5 * 2 * 2 + 4 * 2 * 4 * 2
    moved = 2 * 34 + 4 * 16 + 4 * 5 * 2
    assert gpu.Rates(1.0, 1e9).roofline(sizes, 1) == prefill + step
    assert gpu.Rates(1e9, 1.0).roofline(sizes, 1) == 2 * moved


def test_a_part_that_is_cut_or_fails_keeps_its_figures(gpu, tmp_path):
    out = tmp_path / "figures"
    write = f"open({str(out)!r}, 'a').write('{{\"a\": 1}}\\n{{\"b\": 2'); "
    assert gpu.run_part([sys.executable, "-c", write + "import time; time.sleep(60)"], 2) == "cut"
    assert gpu.read_figures(out) == {"a": 1}
    assert gpu.run_part([sys.executable, "-c", "raise SystemExit(3)"], 20) == "failed"
    assert gpu.run_part([sys.executable, "-c", ""], 20) == "done"
    assert sum(gpu.BUDGET.values()) <= 480
