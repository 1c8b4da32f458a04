"""The end of the process in the middle of work: by SIGKILL, and by SIGTERM."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from benchmarks.faults.load import Call, Clients, search
from benchmarks.faults.server import Server, bearer
from benchmarks.faults.shops import mark_of

#: Items and events of one request; either all of them are kept or none.
TOGETHER, GROUPS = 3, 8
LIVE = "live-"


@dataclass
class Written:
    """What a server acknowledged, and what it may have kept without saying so."""

    marks: Mapping[str, str]  # hash of a bundle -> its mark
    names: Mapping[str, str]  # name of a bundle -> its hash
    prices: dict[int, float] = field(default_factory=dict)
    maybe_prices: dict[int, set[float]] = field(default_factory=dict)
    version: int = 0
    events: set[str] = field(default_factory=set)
    active: str = ""
    maybe_active: set[str] = field(default_factory=set)
    in_flight: int = 0
    mixed: int = 0
    acknowledged: dict[str, int] = field(
        default_factory=lambda: {"items": 0, "events": 0, "swaps": 0}
    )
    turn: threading.Lock = field(default_factory=threading.Lock)

    def items(self, client: httpx.Client, _: int, turn: int) -> httpx.Response:
        """Put a group of items, or change the prices of one, all to one price."""
        group, price = turn % GROUPS, time.monotonic()
        body = [{"item_id": f"{LIVE}{group}-{n}", "price": price} for n in range(TOGETHER)]
        put = group not in self.prices or turn % 3 == 0
        if put:
            body = [item | {"title": f"live thing {group}"} for item in body]
        with self.turn:
            self.maybe_prices.setdefault(group, set()).add(price)
            self.in_flight += 1
        reply = client.request("PUT" if put else "PATCH", "/v1/items", json={"items": body})
        with self.turn:
            self.in_flight -= 1
            if reply.status_code == 200:
                self.prices[group] = price
                self.maybe_prices[group] = set()
                self.version = max(self.version, reply.json()["catalogue_version"])
                self.acknowledged["items"] += TOGETHER
        return reply

    def choose(self, client: httpx.Client, place: int, turn: int) -> httpx.Response:
        """Send events."""
        ids = [f"{place}-{turn}-{n}-{time.monotonic_ns()}" for n in range(TOGETHER)]
        event = {"request_id": "r", "item_id": "x", "action": "click", "user_id": "u"}
        reply = client.post("/v1/events", json={"events": [event | {"event_id": i} for i in ids]})
        if reply.status_code == 200:
            with self.turn:
                self.events |= set(ids)
                self.acknowledged["events"] += len(ids)
        return reply

    def swap(self, client: httpx.Client, _: int, turn: int) -> httpx.Response:
        """Activate the next bundle."""
        name = list(self.names)[turn % len(self.names)]
        with self.turn:
            self.maybe_active.add(name)
        reply = client.post(f"/v1/bundles/{name}/activate")
        if reply.status_code == 200:
            with self.turn:
                self.active, self.maybe_active = name, set()
                self.acknowledged["swaps"] += 1
        return reply

    def look(self, client: httpx.Client, _: int, turn: int) -> httpx.Response:
        """Search, and hold the hits against the bundle that the answer names."""
        reply = search(client, ("red shoe", "tent", "blue lamp", "grey keyboard")[turn % 4], k=8)
        if reply.status_code == 200 and not self.agrees(reply):
            with self.turn:
                self.mixed += 1
        return reply

    def agrees(self, reply: httpx.Response) -> bool:
        """Whether every hit of an answer is of the bundle that it names, or live."""
        answer = reply.json()
        mark = self.marks[answer["bundle"]]
        return all(
            mark_of(hit["title"]) == mark
            for hit in answer["hits"]
            if not hit["item_id"].startswith(LIVE)
        )

    def lost(self, client: httpx.Client) -> tuple[int, int]:
        """Return how much of what was acknowledged is not there any more, and how many states are
        mixed: groups of items of two prices, answers of two bundles, a bundle that nobody asked
        for.
        """
        lost = mixed = 0
        for group, price in self.prices.items():
            prices = self._prices_of(client, group)
            lost += prices != [prices[0]] * TOGETHER if prices else 1
            allowed = {price} | self.maybe_prices.get(group, set())
            mixed += len(set(prices)) > 1
            lost += not set(prices) <= allowed
            # what came through without an acknowledgement is the state from now on
            if prices and prices[0] in allowed:
                self.prices[group], self.maybe_prices[group] = prices[0], set()
        events = sorted(self.events)
        for first in range(0, len(events), 500):
            some = events[first : first + 500]
            event = {"request_id": "r", "item_id": "x", "action": "click", "user_id": "u"}
            body = {"events": [event | {"event_id": i} for i in some]}
            lost += client.post("/v1/events", json=body).raise_for_status().json()["accepted"]
        answer = search(client, "tent", k=3)
        mixed += not self.agrees(answer)
        lost += answer.json()["catalogue_version"] < self.version
        active = client.get("/v1/bundles").raise_for_status().json()["active"]
        if self.active:
            allowed_names = {self.active} | self.maybe_active
            lost += active not in allowed_names
            mixed += self.names.get(active, "") != answer.json()["bundle"]
            self.active, self.maybe_active = active, set()
        return lost, mixed

    def _prices_of(self, client: httpx.Client, group: int) -> list[float]:
        ids = [f"{LIVE}{group}-{n}" for n in range(TOGETHER)]
        body = {"query": "", "k": 10, "filter": {"must": [{"has_id": ids}]}}
        hits = client.post("/v1/search", json=body).raise_for_status().json()["hits"]
        return [hit["price"] for hit in hits]


def kill(server: Server, written: Written, times: int, rng: random.Random) -> dict[str, float]:
    """SIGKILL ``times`` while items, events and swaps are written; each time, look what is left."""
    lost = mixed = in_flight = 0
    for _ in range(times):
        server.start()
        with httpx.Client(base_url=server.address, timeout=120, headers=bearer("boss")) as client:
            some_lost, some_mixed = written.lost(client)
        lost, mixed = lost + some_lost, mixed + some_mixed
        clients = [
            Clients(server.address, visit).start()
            for visit in (written.items, written.choose, written.swap, written.look)
        ]
        time.sleep(rng.uniform(0.5, 4.0))
        in_flight += written.in_flight > 0
        server.signal(signal.SIGKILL)
        server.wait()
        for client_threads in clients:
            client_threads.stop()
        written.in_flight = 0
    server.start()
    with httpx.Client(base_url=server.address, timeout=120, headers=bearer("boss")) as client:
        some_lost, some_mixed = written.lost(client)
    server.stop()
    return {
        "kills": times,
        "kills_with_a_write_in_flight": in_flight,
        **{f"kill_acknowledged_{what}": n for what, n in written.acknowledged.items()},
        "kill_acknowledged_lost": lost + some_lost,
        "kill_mixed_states": mixed + some_mixed + written.mixed,
    }


def terminate(server: Server, written: Written, times: int, rng: random.Random) -> dict[str, float]:
    """SIGTERM ``times`` under load: what had been sent whole before the signal is answered."""
    accepted = dropped = lost = unclean = 0
    for _ in range(times):
        server.start()
        clients = [
            Clients(server.address, written.look, n=6).start(),
            Clients(server.address, written.choose, n=2).start(),
        ]
        time.sleep(rng.uniform(0.5, 2.0))
        signalled = time.monotonic()
        server.signal(signal.SIGTERM)
        unclean += server.wait() not in (0, -signal.SIGTERM)
        calls: list[Call] = [call for one in clients for call in one.stop()]
        before = [call for call in calls if call.sent < signalled]
        accepted += len(before)
        dropped += sum(call.reply is None or call.reply.status_code != 200 for call in before)
    server.start()
    with httpx.Client(base_url=server.address, timeout=120, headers=bearer("boss")) as client:
        lost, _ = written.lost(client)
    server.stop()
    return {
        "sigterms": times,
        "sigterm_accepted_requests": accepted,
        "sigterm_dropped": dropped,
        "sigterm_acknowledged_lost": lost,
        "sigterm_unclean_ends": unclean,
    }


def swap(server: Server, written: Written, times: int) -> dict[str, float]:
    """Exchange the bundle ``times`` under load."""
    written.mixed = 0
    load = Clients(server.address, written.look, n=4).start()
    swaps = 0
    with httpx.Client(base_url=server.address, timeout=120, headers=bearer("boss")) as client:
        for turn in range(times):
            swaps += written.swap(client, 0, turn).status_code == 200
            time.sleep(0.3)
    calls = load.stop()
    bundles = {call.reply.json()["bundle"] for call in calls if call.reply is not None}
    failed = sum(call.reply is None or call.reply.status_code != 200 for call in calls)
    return {
        "swaps": swaps,
        "swap_searches": len(calls),
        "swap_bundles_seen": len(bundles),
        "swap_failed": failed,
        "swap_mixed": written.mixed,
    }
