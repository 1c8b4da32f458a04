"""The benchmark of the service at toy size: every figure is there and is a number."""

import importlib
import math
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from shop import write_bundle, write_stages

from sidar.config.serve import ServeConfig
from sidar.serve import create_app
from sidar.serve.engine.copies import load_copies

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def in_a_thread(bundle, config):
    """A server of this process: starting two commands would take longer than all the rest."""
    app = create_app({"model": load_copies(bundle)}, config=ServeConfig(**config))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("serve")


def test_the_benchmark_measures_both_servers_and_a_flood(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "CLIENTS", (1, 4))
    monkeypatch.setattr(serve, "FLOOD", 3)
    bundle = write_bundle(write_stages(tmp_path))
    servers = {"before": {"batch": 1}, "after": {}}
    figures = serve.measure(bundle, ["tent", "red shoe"], 0.3, servers, in_a_thread)
    for name in ("before", "after"):
        for clients in (1, 4):
            assert figures[f"{name}_qps_c{clients}"] > 0
            assert figures[f"{name}_p50_ms_c{clients}"] <= figures[f"{name}_p99_ms_c{clients}"]
    assert figures["qps_over_before_c4"] == pytest.approx(
        figures["after_qps_c4"] / figures["before_qps_c4"]
    )
    assert figures["cpu_seconds_per_query_b32"] > 0
    assert figures["flood_failed"] == 0
    shares = [figures[f"flood_{name}_share"] for name in ("refused", "late")]
    assert all(0 <= share <= 1 for share in shares)
    assert all(math.isfinite(value) for value in figures.values())


def test_an_answer_that_comes_after_its_deadline_is_late(serve):
    load = serve.Load(seconds=2.0)
    load.add(200, b'{"reason": null}', 900, 1000)
    load.add(200, b'{"reason": null}', 1100, 1000)
    load.add(200, b'{"reason": "deadline"}', 1000, 1000)
    load.add(503, b"", 1)
    load.add(500, b"", 1)
    assert (load.good_ms, load.late, load.refused, load.failed) == ([900], 2, 1, 1)
    assert (load.sent, load.qps) == (5, 0.5)
