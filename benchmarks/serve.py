"""The service over HTTP: latency and searches per second by clients, and what it does in a flood.

Two servers over one bundle answer in turn, each the command ``sidar serve`` in processes of its
own, both with the bundle's fusion, reranking and precision, without ``explain`` and without a cache
of results:

  after    passes of what waits, ``--workers`` worker processes of a thread each (default: one per
           core)
  before   one search at a time with all cores (``serve.batch: 1``), as the server did before it had
           passes; everything else is today's code, so what was made faster since helps both

Closed loop: each client sends its next search when it has an answer.  Flood: searches arrive at ten
times the rate of the best closed loop, whatever the answers do, each with a deadline of a second;
an answer counts that the client has before its deadline.  The clients run on the same cores: they
are written on bare sockets, so that they take little of them.

``cpu_seconds_per_query_b32``: CPU seconds of a search where 32 are answered in one call of a model
on one thread, without HTTP; the median of calls before, between and after the loads.
``qps_over_cpu_floor`` = most searches per second over (cores ÷ that).

The figures need a quiet machine: at most six minutes. Without ``--save`` nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from common import print_table, write_results

CLIENTS = (1, 4, 16, 64)
#: Deadline of a search in the flood, and how many times the best closed loop's rate it has.
DEADLINE_MS, FLOOD = 1000, 10
#: Times that both servers take a turn at each number of clients.
TURNS = 2
#: Searches of one call in ``cpu_seconds_per_query_b32``.
BATCH = 32

#: A server over a bundle with a section ``serve``; gives its port.
Start = Callable[[Path, dict[str, Any]], AbstractContextManager[int]]


@dataclass
class Load:
    """What the clients saw: milliseconds of good answers, counts of the others, seconds in all."""

    good_ms: list[float] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        return len(self.good_ms) + self.late + self.refused + self.failed

    @property
    def qps(self) -> float:
        return len(self.good_ms) / self.seconds

    def percentile(self, p: float) -> float:
        """Milliseconds below which the share ``p`` of the good answers came."""
        ordered = sorted(self.good_ms)
        return ordered[min(len(ordered) - 1, int(p * len(ordered)))]

    def add(self, status: int, body: bytes, ms: float, deadline_ms: float | None = None) -> None:
        if status == 503:
            self.refused += 1
        elif status != 200:
            self.failed += 1
        elif json.loads(body)["reason"] == "deadline" or (deadline_ms and ms > deadline_ms):
            self.late += 1
        else:
            self.good_ms.append(ms)

    def join(self, other: Load) -> None:
        """Add what the clients saw in another turn."""
        self.good_ms += other.good_ms
        for name in ("late", "refused", "failed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Connection(asyncio.Protocol):
    """One connection of a client, which sends a search and waits for its answer."""

    def __init__(self) -> None:
        self._data = b""
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length and self._reply is not None:
            reply, self._reply, self._data = self._reply, None, b""
            reply.set_result((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None:
            self._reply.set_exception(error or ConnectionError("the server closed a connection"))

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request; status and body will come."""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._reply

    def close(self) -> None:
        self._transport.close()


class Client:
    """Searches over as many connections as are in use at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []

    async def ask(self, query: str, load: Load, deadline_ms: int | None = None) -> None:
        """Send a search and add what came of it to ``load``."""
        fields: dict[str, Any] = {"query": query, "k": 10}
        if deadline_ms:
            fields["timeout_ms"] = deadline_ms
        body = json.dumps(fields).encode()
        head = (
            "POST /v1/search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        started = time.perf_counter()
        connection = self._free.pop() if self._free else await self._open()
        try:
            status, reply = await connection.send(head.encode() + body)
        except ConnectionError:
            load.failed += 1
            return
        self._free.append(connection)
        load.add(status, reply, 1000 * (time.perf_counter() - started), deadline_ms)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]

    def close(self) -> None:
        for connection in self._free:
            connection.close()


@contextmanager
def served(bundle: Path, config: dict[str, Any]) -> Iterator[int]:
    """The port of a ``sidar serve`` over ``bundle``, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # the threads of each library are the server's to choose
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sidar.yaml"
        path.write_text(yaml.safe_dump({"serve": config}))
        words = ["serve", "--bundle", str(bundle), "--config", str(path), "--port", str(port)]
        server = subprocess.Popen([sys.executable, "-m", "sidar", *words], env=environment)
        try:
            asyncio.run(_until_ready(port, server))
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


async def _until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    """Ask ``/readyz`` until it is 200."""
    while True:
        if server.poll() is not None:
            raise RuntimeError("the server ended while it loaded its bundle")
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            status, _ = await connection.send(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            connection.close()
            if status == 200:
                return
        except ConnectionError:
            pass
        await asyncio.sleep(0.1)


async def closed_loop(port: int, queries: Sequence[str], clients: int, seconds: float) -> Load:
    """Let ``clients`` ask one after another for ``seconds``."""
    load, started, client = Load(), time.perf_counter(), Client(port)

    async def visit(first: int) -> None:
        place = first
        while place == first or time.perf_counter() < started + seconds:
            await client.ask(queries[place % len(queries)], load)
            place += clients

    await asyncio.gather(*(visit(first) for first in range(clients)))
    load.seconds = time.perf_counter() - started
    client.close()
    return load


async def flood(port: int, queries: Sequence[str], rate: float, seconds: float) -> Load:
    """Let ``rate`` searches a second come for ``seconds``, whatever the answers do."""
    load, started, tasks, client = Load(), time.perf_counter(), [], Client(port)
    for place in range(int(rate * seconds)):
        wait = started + place / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        query = queries[place % len(queries)]
        tasks.append(asyncio.create_task(client.ask(query, load, DEADLINE_MS)))
    # longer where the clients did not come after
    load.seconds = max(seconds, time.perf_counter() - started)
    await asyncio.gather(*tasks)
    client.close()
    return load


async def recovery(port: int, query: str, usual_ms: float) -> float:
    """Seconds after a flood until a search takes no more than twice its usual time; a minute where
    none does.
    """
    started, client = time.perf_counter(), Client(port)
    passed = 0.0
    while passed < 60:
        load = Load()
        await client.ask(query, load)
        passed = time.perf_counter() - started
        if load.good_ms and load.good_ms[0] <= 2 * usual_ms:
            break
    client.close()
    return passed


class CpuFloor:
    """CPU seconds of a search where many are answered in one call, on one thread, without HTTP."""

    def __init__(self, bundle: Path, queries: Sequence[str]) -> None:
        import torch

        from sidar.serve.engine.copies import load_copies
        from sidar.serve.request import SearchRequest

        torch.set_num_threads(1)
        (self._model,) = load_copies(bundle)
        self._requests = [
            SearchRequest(query=queries[place % len(queries)]) for place in range(BATCH)
        ]
        self.seconds: list[float] = []
        self._model.answer(self._requests)

    def take(self) -> None:
        """Measure once more."""
        started = time.process_time()
        self._model.answer(self._requests)
        self.seconds.append((time.process_time() - started) / BATCH)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(
    bundle: Path,
    queries: Sequence[str],
    seconds: float,
    servers: dict[str, dict[str, Any]],
    start: Start = served,
) -> dict[str, float]:
    """Return the flat figures; ``servers``: the sections ``serve`` of ``before`` and ``after``."""
    figures: dict[str, float] = {}
    floor = CpuFloor(bundle, queries)
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(start(bundle, config)) for name, config in servers.items()
        }
        for port in ports.values():
            asyncio.run(closed_loop(port, queries, 4, min(seconds, 2.0)))  # to warm up
        for clients in CLIENTS:
            loads = {name: Load() for name in ports}
            floor.take()
            for _ in range(TURNS):
                for name, port in ports.items():
                    loads[name].join(
                        asyncio.run(closed_loop(port, queries, clients, seconds / TURNS))
                    )
            figures |= _of_clients(loads, clients)
        most = max(figures[f"after_qps_c{clients}"] for clients in CLIENTS)
        floor.take()
        load = asyncio.run(flood(ports["after"], queries, FLOOD * most, seconds))
        usual = figures["after_p50_ms_c1"]
        seconds_after = asyncio.run(recovery(ports["after"], queries[0], usual))
        floor.take()
    cores = os.cpu_count() or 1
    return figures | {
        "cpu_seconds_per_query_b32": floor.median,
        "qps_over_cpu_floor": most / (cores / floor.median),
        "flood_rate": load.sent / load.seconds,
        "flood_goodput_over_most": load.qps / most,
        "flood_p99_ms": load.percentile(0.99) if load.good_ms else 0.0,
        "flood_refused_share": load.refused / load.sent,
        "flood_late_share": load.late / load.sent,
        "flood_failed": load.failed,
        "flood_recovery_seconds": seconds_after,
    }


def _of_clients(loads: dict[str, Load], clients: int) -> dict[str, float]:
    """The figures of both servers at one number of clients."""
    figures: dict[str, float] = {}
    for name, load in loads.items():
        if load.late or load.refused or load.failed:
            raise RuntimeError(f"{name}, {clients} clients: not all searches were answered: {load}")
        figures[f"{name}_qps_c{clients}"] = load.qps
        figures[f"{name}_p50_ms_c{clients}"] = load.percentile(0.5)
        figures[f"{name}_p99_ms_c{clients}"] = load.percentile(0.99)
    figures[f"qps_over_before_c{clients}"] = loads["after"].qps / loads["before"].qps
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--queries", type=Path, help="A file, one query a line.")
    parser.add_argument("--seconds", type=float, default=14.0, help="Of each load.")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", action="store_true", help="Write benchmarks/results/serve.json.")
    args = parser.parse_args()
    if args.queries:
        # a table's first column will do
        queries = [line.split("\t")[-1] for line in args.queries.read_text().splitlines() if line]
    else:
        from sidar.serve.bundle import open_bundle

        queries = list(open_bundle(args.bundle).examples)
    servers = {"before": {"batch": 1}, "after": {"workers": args.workers}}
    figures = measure(args.bundle, queries, args.seconds, servers)
    print_table(["figure", "value"], [[name, value] for name, value in figures.items()])
    if args.save:
        config = {"seconds": args.seconds, "clients": list(CLIENTS), "servers": servers}
        config |= {"queries": len(queries), "deadline_ms": DEADLINE_MS, "flood": FLOOD}
        print(write_results("serve", config, figures, threads=os.cpu_count() or 1))


if __name__ == "__main__":
    main()
