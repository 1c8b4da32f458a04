"""A shop of twelve items with a small regular log, for tests of what real logs do to it."""

from __future__ import annotations

import json
from pathlib import Path

from sidar.config import Config
from sidar.pipeline.stages import data as data_stage

START = 1_700_006_400  # 15 November 2023, 00:00 UTC
DAY = 86_400
Row = dict[str, object]


def catalogue(folder: Path) -> Path:
    lines = ["item_id,title"] + [f"P{n},item {n}" for n in range(12)]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    return folder / "items.csv"


def log(days: int = 4, requests: int = 4) -> list[Row]:
    """Requests of three items each, the second of them clicked."""
    rows: list[Row] = []
    for day in range(days):
        for n in range(requests):
            ts, key = START + day * DAY + 600 * n, f"r{day}-{n}"
            shared = {"user_id": f"u{n}", "request_id": key, "query": f"item {n}"}
            for place in range(1, 4):
                item = f"P{(n + place) % 12}"
                rows.append(
                    {"ts": ts, **shared, "item_id": item, "position": place, "action": "impression"}
                )
            rows.append(
                {
                    "ts": ts + 5,
                    **shared,
                    "item_id": f"P{(n + 2) % 12}",
                    "position": 2,
                    "action": "click",
                }
            )
    return rows


def run(folder: Path, rows: list[Row], people: str | None = None, **sections: object) -> str:
    """Run the data stage and return its summary, or raise."""
    header = list(rows[0])
    lines = [",".join(header), *(",".join(str(row[c]) for c in header) for row in rows)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    cfg = Config.model_validate({"threads": 1, **sections})
    cfg.catalogue.path, cfg.events.path = str(catalogue(folder)), str(folder / "events.csv")
    if people is not None:
        (folder / "users.csv").write_text(people)
        cfg.users.path = str(folder / "users.csv")
    out = folder / "out"
    out.mkdir(exist_ok=True)
    cfg.runs, cfg.name = str(folder), "run"
    summary = str(data_stage(cfg, {}, out, folder / "work")["summary"])
    report = json.loads((out / "report.json").read_text())
    assert [f"WARNING: {each}" for each in report["warnings"]] == [
        line.replace("\\[", "[") for line in summary.splitlines() if line.startswith("WARNING")
    ]
    return summary
