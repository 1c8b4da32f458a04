"""What the server survives: hostile requests, kills, swaps, full disks, damaged bundles, slow
clients.

Everything runs against a real ``sidar serve`` in a process of its own, over the bundle that is
named or over the toy shop's.  Times do not matter, so the machine need not be quiet.  Without
``--save`` nothing is written; ``--only`` runs some of the parts, whose figures then take the place
of earlier ones.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import httpx
from common import RESULTS, commit, print_table, write_results

from benchmarks.faults import crashes, damage, formats, hostile, paths, wire
from benchmarks.faults.server import Server, bearer
from benchmarks.faults.shops import marked, toy_bundle
from sidar.artifacts import open_artifact

SECRET = "the secret of another folder"


@dataclass
class Counts:
    """How much of everything is done."""

    requests: int = 2000
    warm: int = 500
    kills: int = 10
    sigterms: int = 10
    swaps: int = 10
    flips: int = 3
    names: int = 300
    crowd: int = 200


@dataclass
class Experiment:
    """The servers of all parts, in ``folder``, over ``bundle`` and marked copies of it."""

    folder: Path
    bundle: Path
    counts: Counts
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.days = {
            name: marked(self.bundle, self.folder / "bundles" / name, name)
            for name in ("day1", "day2", "day3")
        }

    @property
    def bundles(self) -> dict[str, str]:
        """serve.bundles; ``broken`` is another one at every look."""
        names = self.days | {"broken": self.folder / "bundles" / "broken"}
        return {name: str(folder) for name, folder in names.items()}

    def server(self, name: str, **serve: object) -> Server:
        return Server(
            self.folder / "servers" / name, self.days["day1"], {"bundles": self.bundles, **serve}
        )

    def written(self) -> crashes.Written:
        hashes = {name: open_artifact(path, "bundle").hash for name, path in self.days.items()}
        return crashes.Written({value: name for name, value in hashes.items()}, hashes)

    def hostile(self) -> dict[str, float]:
        """Requests that the schema generates, with and without keys."""
        keys = [{}, *[bearer("boss")] * 5, bearer("reader"), bearer("writer"), bearer("guess")]
        memory: list[float] = []
        with self.server("hostile") as server:
            answers = hostile.send(
                server.address,
                self.counts.requests,
                keys,
                self.seed,
                lambda sent: memory.append(server.rss_mib()),
            )
            alive = server.alive
        self.notes += [f"{n} x {line}" for line, n in answers.broken.items()]
        warm = min(self.counts.warm, len(memory) // 2)
        statuses = {f"hostile_status_{code}": n for code, n in sorted(answers.statuses.items())}
        return {
            "hostile_requests": answers.sent,
            "hostile_routes": len(answers.routes),
            **statuses,
            "hostile_undeclared_5xx": answers.undeclared_5xx,
            "hostile_answers_not_as_declared": sum(answers.broken.values()),
            "hostile_server_alive": int(alive),
            **{
                f"hostile_rss_mib_after_{place + 1}": round(memory[place], 1)
                for place in range(warm - 1, len(memory), warm)
            },
            "hostile_rss_growth_mib": round(memory[-1] - memory[warm - 1], 1),
        }

    def kills(self) -> dict[str, float]:
        """SIGKILL while things are written."""
        return crashes.kill(self.server("kills"), self.written(), self.counts.kills, self.rng)

    def sigterms(self) -> dict[str, float]:
        """SIGTERM under load."""
        server = self.server("sigterms")
        return crashes.terminate(server, self.written(), self.counts.sigterms, self.rng)

    def swaps(self) -> dict[str, float]:
        """Exchanges of the bundle under load."""
        with self.server("swaps") as server:
            return crashes.swap(server, self.written(), self.counts.swaps)

    def damaged(self) -> dict[str, float]:
        """Damaged bundles, and a full disk."""
        with self.server("damaged") as server:
            figures, wrong = damage.damaged(
                server,
                self.days["day2"],
                self.folder / "bundles" / "broken",
                self.counts.flips,
                self.rng,
            )
            self.notes += wrong
            figures |= damage.disk_full(server)
        with self.server("damaged") as server:
            ready = httpx.get(f"{server.address}/readyz", timeout=60)
            figures["disk_full_restarts"] = int(ready.status_code == 200)
        return figures

    def paths(self) -> dict[str, float]:
        """Names that lead elsewhere."""
        (self.folder / "secret.txt").write_text(SECRET)
        marked(self.bundle, self.folder / "outside", "outside")
        with self.server("paths") as server:
            return paths.walk(server, self.folder, SECRET, self.counts.names)

    def wire(self) -> dict[str, float]:
        """Slow clients, and bodies that are too large."""
        limits = wire.Limits(header=2.0, body=2.0, stall=2.0, most=1 << 20)
        config = {"header_seconds": 2.0, "body_seconds": 2.0, "stall_seconds": 2.0}
        with self.server("wire", limits=config) as server:
            return wire.cut(server, limits, self.counts.crowd)

    def formats(self) -> dict[str, float]:
        """Sources and files that could run what they hold."""
        root = Path(__file__).resolve().parents[1] / "src"
        found = [place for file in sorted(root.rglob("*.py")) for place in formats.unsafe(file)]
        names = damage.names_of(self.bundle)
        strange = [name for name in names if Path(name).suffix not in formats.SAFE]
        self.notes += found + strange
        return {
            "sources_read": len(list(root.rglob("*.py"))),
            "unsafe_reads_and_writes": len(found),
            "bundle_files": len(names),
            "bundle_files_of_unsafe_formats": len(strange),
        }

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, float]]]:
        names = ("formats", "hostile", "kills", "sigterms", "swaps", "damaged", "paths", "wire")
        return {name: getattr(self, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="Default: one of the toy shop.")
    parser.add_argument("--only", nargs="*", help="Parts; default: all.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="Write results/reliability.json.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = args.bundle or toy_bundle(folder / "shop")
        experiment = Experiment(folder / "work", bundle.resolve(), Counts(), args.seed)
        for part, run in experiment.parts.items():
            if args.only and part not in args.only:
                continue
            began = time.monotonic()
            made = run()
            # read only now, as another run may have measured another part
            figures, parts = kept()
            figures |= made
            parts[part] = {"commit": commit(), "seconds": round(time.monotonic() - began)}
            rows = [[figure, value] for figure, value in made.items()]
            print_table(["figure", "value"], rows, f"\n{part}, {parts[part]['seconds']} s")
            for note in experiment.notes:
                print(note)
            experiment.notes.clear()
            sys.stdout.flush()
            if args.save:
                config = vars(Counts()) | {"seed": args.seed}
                write_results("reliability", config, figures, parts=parts)


def kept() -> tuple[dict[str, float], dict[str, dict[str, str | int]]]:
    """Return the figures and the parts of the kept result; nothing where there is none."""
    file = RESULTS / "reliability.json"
    if not file.is_file():
        return {}, {}
    content = json.loads(file.read_text())
    return content["figures"], content["parts"]


if __name__ == "__main__":
    main()
