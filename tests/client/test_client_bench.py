"""`sidar bench-serve`: arrivals, percentiles and counts by hand; bounds; a transport as server."""

import asyncio
import json

import httpx
import pytest
from golden import observe

from sidar.client import bench
from sidar.client.exchange import Server

SERVER = Server("http://127.0.0.1:8000", "key")


def test_arrivals_have_the_rate_and_are_those_of_their_seed():
    plan = bench.LoadPlan(rate=200.0, seconds=10.0)
    due = plan.moments()
    assert due == sorted(due) == plan.moments()
    assert due[0] > 0
    assert due[-1] < 10.0
    # Poisson with mean 2,000: five standard deviations are 224
    assert abs(len(due) - 2000) < 224
    assert bench.LoadPlan(200.0, 10.0, seed=1).moments() != due


@pytest.mark.parametrize("wrong", [(0, 1), (2001, 1), (1, 0), (1, 3601), (float("nan"), 1)])
def test_load_has_bounds(wrong):
    with pytest.raises(ValueError, match=r"--(rate|seconds)"):
        bench.LoadPlan(*wrong)


def test_percentiles_are_nearest_ranks():
    values = [float(n) for n in range(100, 0, -1)]
    assert [bench.percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [
        50,
        95,
        99,
        100,
    ]
    assert bench.percentile([7.0], 0.99) == 7.0
    assert bench.percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://203.0.113.9:8000", "another machine"),
        ("http://10.0.0.1", "another machine"),
        ("localhost:8000", "no address"),
    ],
)
def test_load_stays_on_this_machine_unless_allowed(address, problem):
    with pytest.raises(ValueError, match=problem):
        bench.check_address(address, allow_remote=False)
    for local in ("http://127.0.0.1:1", "http://127.8.0.1", "http://[::1]:8000", SERVER.url):
        bench.check_address(local, allow_remote=False)
    bench.check_address("http://203.0.113.9:8000", allow_remote=True)


def test_queries_come_from_lines_or_requests(tmp_path):
    plain, requests = tmp_path / "q.txt", tmp_path / "q.jsonl"
    plain.write_text("towel\n\n  tent \n")
    assert [(one.query, one.k, one.timeout_ms) for one in bench.read_requests(plain, 3, 50)] == [
        ("towel", 3, 50),
        ("tent", 3, 50),
    ]
    requests.write_text('{"query": "tent", "filter": "price < 3"}\n{"qery": "tent"}\n')
    with pytest.raises(ValueError, match=r"q.jsonl:2: .*qery"):
        bench.read_requests(requests, 10, None)
    requests.write_text('{"query": "tent", "filter": "price < 3"}\n')
    assert bench.read_requests(requests, 10, None)[0].filter is not None
    plain.write_text("\n")
    with pytest.raises(ValueError, match="no queries"):
        bench.read_requests(plain, 10, None)


def test_every_search_is_counted_once(tmp_path):
    replies = [
        lambda: httpx.Response(200, json={"reason": None}),
        lambda: httpx.Response(200, json={"reason": "beam"}),
        lambda: httpx.Response(200, json={"reason": "deadline"}),
        lambda: httpx.Response(503, json={"error": "too many"}),
        lambda: httpx.Response(429, json={"error": "too many"}),
        lambda: httpx.Response(500, json={"error": "ours"}),
        lambda: httpx.Response(200, text="<html>"),
    ]
    asked = []

    async def answer(request):
        asked.append((request.headers["Authorization"], json.loads(request.content)))
        if len(asked) % 8 == 0:
            raise httpx.ConnectError("refused")
        return replies[len(asked) % 8 - 1]()

    file = tmp_path / "q.txt"
    file.write_text("towel\ntent\n")
    requests = bench.read_requests(file, 4, None)
    plan = bench.LoadPlan(rate=400.0, seconds=0.2, within_ms=10_000)
    report = asyncio.run(
        bench.send_load(SERVER, requests, plan, transport=httpx.MockTransport(answer))
    )
    figures = report.figures()
    sent = len(plan.moments())
    assert figures["sent"] == len(asked) == sent
    assert asked[:2] == [
        ("Bearer key", {"query": "towel", "k": 4}),
        ("Bearer key", {"query": "tent", "k": 4}),
    ]
    rounds, rest = divmod(sent, 8)
    assert figures["answered"] == figures["good"] == 2 * rounds + min(rest, 2)
    assert figures["goodput"] == pytest.approx(figures["good"] / 0.2)
    assert figures["deadline"] == rounds + (rest > 2)
    assert figures["refused_503"] == rounds + (rest > 3)
    assert figures["limited_429"] == rounds + (rest > 4)
    assert figures["other_statuses"] == rounds + (rest > 5)
    assert figures["failed"] == 2 * rounds + (rest > 6)
    assert figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]


def test_searches_do_not_wait_for_answers(monkeypatch):
    """A server that never answers gets all searches all the same, until too many are open."""
    monkeypatch.setattr(bench, "MOST_OPEN", 5)

    async def answer(request):
        await asyncio.sleep(0.4)
        return httpx.Response(200, json={"reason": None})

    requests = [bench.SearchRequest(query="towel")]
    plan = bench.LoadPlan(rate=100.0, seconds=0.2, within_ms=300.0)
    report = asyncio.run(
        bench.send_load(SERVER, requests, plan, transport=httpx.MockTransport(answer))
    )
    assert report.unsent == len(plan.moments()) - 5 > 0
    assert len(report.answered_ms) == 5
    assert min(report.answered_ms) >= 390
    assert report.good == 0


def test_the_command_refuses_in_one_line(tmp_path):
    file = tmp_path / "q.txt"
    file.write_text("towel\n")
    code, _, error = observe.call("bench-serve", file, "--url", "http://203.0.113.9")
    assert code == 2
    assert "--allow-remote" in error
