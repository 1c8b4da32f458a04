"""Bundles that were damaged on their way, and a disk that takes nothing more."""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.faults.load import search
from benchmarks.faults.server import Server, bearer


def flip(file: Path, rng: random.Random) -> None:
    """Turn one bit over."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, _: random.Random) -> None:
    """Cut the second half off."""
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path, _: random.Random) -> None:
    """Leave nothing but the name."""
    os.truncate(file, 0)


def remove(file: Path, _: random.Random) -> None:
    """Take the file away."""
    file.unlink()


def obstruct(file: Path, _: random.Random) -> None:
    """Put a folder in the place of the file, which nobody can read, whatever rights he has."""
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped": flip,
    "truncated": truncate,
    "emptied": empty,
    "removed": remove,
    "unreadable": obstruct,
}


def names_of(bundle: Path) -> list[str]:
    """Relative paths of all files of a bundle."""
    return sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())


def damaged(
    server: Server, bundle: Path, broken: Path, flips: int, rng: random.Random
) -> tuple[dict[str, float], list[str]]:
    """Damage each file of ``bundle`` in each way, and let the server load that as ``broken``;
    ``flips``: bits of each file that are tried, one at a time.

    Returns figures, and what was wrong, a line each.
    """
    counts = {"damaged_bundles": 0, "damaged_refused": 0, "damaged_named": 0, "damaged_alive": 0}
    wrong: list[str] = []
    with httpx.Client(base_url=server.address, timeout=300, headers=bearer("boss")) as client:
        before = _answer(client)
        for name in names_of(bundle):
            for damage, act in DAMAGES.items():
                # the seal of a bundle of an older version is not there either
                if (name, damage) == ("manifest.sha256", "removed"):
                    continue
                for _ in range(flips if damage == "flipped" else 1):
                    shutil.rmtree(broken, ignore_errors=True)
                    shutil.copytree(bundle, broken)
                    act(broken / name, rng)
                    reply = client.post("/v1/bundles/broken/activate")
                    refused = reply.status_code == 422
                    named = refused and Path(name).name in reply.json()["error"]
                    alive = _answer(client) == before
                    counts["damaged_bundles"] += 1
                    counts["damaged_refused"] += refused
                    counts["damaged_named"] += named
                    counts["damaged_alive"] += alive
                    if not (refused and named and alive):
                        wrong.append(f"{name} {damage}: {reply.status_code} {reply.text[:300]}")
    return dict(counts), wrong


def _answer(client: httpx.Client) -> tuple[str, list[str]]:
    reply = search(client, "tent").raise_for_status().json()
    return reply["bundle"], [hit["item_id"] for hit in reply["hits"]]


def disk_full(server: Server) -> dict[str, float]:
    """Let no file of the process grow any more, as a full disk does; then let them again.

    Writes are refused with 503, nothing of them is kept, and searches are answered meanwhile.
    """
    event = {"request_id": "r", "item_id": "x", "action": "click"}
    many = [event | {"event_id": f"full-{n}", "query": "q" * 2000} for n in range(300)]
    items = [{"item_id": f"full-{n}", "title": "words " * 200} for n in range(50)]
    refused = lost = searches = 0
    with httpx.Client(base_url=server.address, timeout=120, headers=bearer("boss")) as client:
        first = client.post("/v1/events", json={"events": [event | {"event_id": "before-full"}]})
        first.raise_for_status()
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, hard))
        try:
            writes: list[Callable[[], httpx.Response]] = [
                lambda: client.post("/v1/events", json={"events": many}),
                lambda: client.put("/v1/items", json={"items": items}),
                lambda: client.post("/v1/events/files"),
            ]
            for write in writes:
                refused += write().status_code == 503
            for turn in range(30):
                reply = search(client, f"tent {turn}", k=20, user_id="u")
                searches += reply.status_code == 200
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (soft, hard))
        again = client.post("/v1/events", json={"events": many}).raise_for_status().json()
        lost += again["accepted"] != len(many)
        lost += client.put("/v1/items", json={"items": items}).status_code != 200
        known = client.post("/v1/events", json={"events": [event | {"event_id": "before-full"}]})
        lost += known.json()["repeated"] != 1
        lost += client.post("/v1/events/files").status_code != 200
    return {
        "disk_full_writes": len(writes),
        "disk_full_writes_refused": refused,
        "disk_full_searches": 30,
        "disk_full_searches_answered": searches,
        "disk_full_failures_after": lost,
    }
