"""The benchmark of the service at toy size: every figure is there and is a number."""

import importlib
import math
from pathlib import Path

import pytest
from shop import write_bundle, write_stages

ROOT = Path(__file__).parent.parent.parent


def test_the_benchmark_measures_both_servers_and_a_flood(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    serve = importlib.import_module("serve")
    monkeypatch.setattr(serve, "CLIENTS", (1, 4))
    monkeypatch.setattr(serve, "FLOOD", 3)
    bundle = write_bundle(write_stages(tmp_path))
    figures = serve.measure(bundle, ["tent", "red shoe"], seconds=0.3, workers=0)
    for name in ("before", "after"):
        for clients in (1, 4):
            assert figures[f"{name}_qps_c{clients}"] > 0
            assert figures[f"{name}_p50_ms_c{clients}"] <= figures[f"{name}_p99_ms_c{clients}"]
    assert figures["qps_over_before_c4"] == pytest.approx(
        figures["after_qps_c4"] / figures["before_qps_c4"]
    )
    assert figures["flood_failed"] == 0
    shares = [figures[f"flood_{name}_share"] for name in ("refused", "late")]
    assert all(0 <= share <= 1 for share in shares)
    assert all(math.isfinite(value) for value in figures.values())
