"""The service over HTTP: latency and searches per second by clients, and what it does in a flood.

Two servers over one bundle answer in turn, in one process: ``after`` joins what waits into passes,
``before`` takes one search at a time (``serve.batch: 1``), as the server did before it had passes.
Closed loop: each client sends its next search when it has an answer.  Flood: searches arrive at ten
times the rate of the best closed loop, whatever the answers do, each with a deadline of a second.

The figures need a quiet machine. Without ``--save`` nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from common import print_table, write_results

from sidar.config.serve import ServeConfig
from sidar.serve import create_app
from sidar.serve.engine.copies import load_copies
from sidar.serve.request import SearchRequest

CLIENTS = (1, 4, 16, 64)
#: Deadline of a search in the flood, and how many times the best closed loop's rate it has.
DEADLINE_MS, FLOOD = 1000, 10


@dataclass
class Load:
    """What the clients saw: milliseconds of good answers, counts of the others, seconds in all."""

    good_ms: list[float] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def qps(self) -> float:
        return len(self.good_ms) / self.seconds

    def percentile(self, p: float) -> float:
        """Milliseconds below which the share ``p`` of the good answers came."""
        ordered = sorted(self.good_ms)
        return ordered[min(len(ordered) - 1, int(p * len(ordered)))]

    def add(self, reply: httpx.Response, ms: float) -> None:
        if reply.status_code == 503:
            self.refused += 1
        elif reply.status_code != 200:
            self.failed += 1
        elif reply.json()["reason"] == "deadline":
            self.late += 1
        else:
            self.good_ms.append(ms)


@contextmanager
def served(bundle: Path, config: ServeConfig) -> Iterator[str]:
    """The address of a server over ``bundle``, in a thread."""
    app = create_app({"model": load_copies(bundle, workers=config.workers)}, config=config)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


async def ask(client: httpx.AsyncClient, query: str, load: Load, **more: int) -> None:
    started = time.perf_counter()
    reply = await client.post("/v1/search", json={"query": query, "k": 10, **more})
    load.add(reply, 1000 * (time.perf_counter() - started))


async def closed_loop(address: str, queries: Sequence[str], clients: int, seconds: float) -> Load:
    """Let ``clients`` ask one after another for ``seconds``."""
    load, started = Load(), time.perf_counter()

    async def visit(client: httpx.AsyncClient, first: int) -> None:
        place = first
        while place == first or time.perf_counter() < started + seconds:
            await ask(client, queries[place % len(queries)], load)
            place += clients

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        await asyncio.gather(*(visit(client, first) for first in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


async def flood(address: str, queries: Sequence[str], rate: float, seconds: float) -> Load:
    """Let ``rate`` searches a second come for ``seconds``, whatever the answers do."""
    load, started, tasks = Load(), time.perf_counter(), []
    limits = httpx.Limits(max_connections=4096)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        for place in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + place / rate - time.perf_counter()))
            query = queries[place % len(queries)]
            tasks.append(asyncio.create_task(ask(client, query, load, timeout_ms=DEADLINE_MS)))
        await asyncio.gather(*tasks)
    load.seconds = seconds
    return load


async def recovery(address: str, query: str, usual_ms: float) -> float:
    """Seconds after a flood until a search takes no more than twice its usual time."""
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        while True:
            load = Load()
            await ask(client, query, load)
            if load.good_ms and load.good_ms[0] <= 2 * usual_ms:
                return time.perf_counter() - started


def cpu_floor(bundle: Path, queries: Sequence[str], batch: int = 32) -> float:
    """Searches per second of all cores if each cost what it does in passes of ``batch``."""
    (model,) = load_copies(bundle)
    requests = [SearchRequest(query=query) for query in queries[:batch]]
    model.answer(requests)
    started = time.process_time()
    model.answer(requests)
    each = (time.process_time() - started) / len(requests)
    return (os.cpu_count() or 1) / each


def measure(bundle: Path, queries: Sequence[str], seconds: float, workers: int) -> dict[str, float]:
    """Return the flat figures."""
    figures: dict[str, float] = {}
    servers = {"before": ServeConfig(batch=1), "after": ServeConfig(workers=workers)}
    loads: dict[tuple[str, int], list[Load]] = {}
    addresses, stacks = {}, []
    for name, config in servers.items():
        stacks.append(served(bundle, config))
        addresses[name] = stacks[-1].__enter__()
    try:
        for _ in range(3):  # in turn, so that a warming clock hits both alike
            for clients in CLIENTS:
                for name, address in addresses.items():
                    load = asyncio.run(closed_loop(address, queries, clients, seconds / 3))
                    loads.setdefault((name, clients), []).append(load)
        for (name, clients), parts in loads.items():
            figures[f"{name}_qps_c{clients}"] = statistics.median(part.qps for part in parts)
            for label, p in (("p50", 0.5), ("p99", 0.99)):
                figures[f"{name}_{label}_ms_c{clients}"] = statistics.median(
                    part.percentile(p) for part in parts
                )
        for clients in CLIENTS:
            before, after = (figures[f"{name}_qps_c{clients}"] for name in ("before", "after"))
            figures[f"qps_over_before_c{clients}"] = after / before
        most = max(figures[f"after_qps_c{clients}"] for clients in CLIENTS)
        figures["qps_over_cpu_floor"] = most / cpu_floor(bundle, queries)
        load = asyncio.run(flood(addresses["after"], queries, FLOOD * most, seconds))
        sent = len(load.good_ms) + load.late + load.refused + load.failed
        figures["flood_goodput_over_most"] = load.qps / most
        figures["flood_refused_share"] = load.refused / sent
        figures["flood_late_share"] = load.late / sent
        figures["flood_failed"] = load.failed
        usual = figures["after_p50_ms_c1"]
        figures["flood_recovery_seconds"] = asyncio.run(
            recovery(addresses["after"], queries[0], usual)
        )
    finally:
        for stack in stacks:
            stack.__exit__(None, None, None)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--queries", type=Path, help="A file, one query a line.")
    parser.add_argument("--seconds", type=float, default=30.0, help="Of each load.")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="Write benchmarks/results/serve.json.")
    args = parser.parse_args()
    if args.queries:
        queries = args.queries.read_text().splitlines()
    else:
        queries = list(load_copies(args.bundle)[0].info.examples)
    figures = measure(args.bundle, queries, args.seconds, args.workers)
    print_table(["figure", "value"], [[name, f"{value:.3f}"] for name, value in figures.items()])
    if args.save:
        config = {"seconds": args.seconds, "workers": args.workers, "clients": list(CLIENTS)}
        write_results("serve", config | {"queries": len(queries)}, figures)


if __name__ == "__main__":
    main()
