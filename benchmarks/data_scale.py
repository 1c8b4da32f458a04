"""A log of 2M and of 20M rows over 1M items through the whole data stage: time, and peak memory of
a fresh process.

    python benchmarks/data_scale.py [--rows 2000000 20000000] [--items 1000000] [--threads 1]
        [--memory 1GB]

The log is generated (streamed, into a temporary folder): requests of eight impressions and two
further actions over eight days, skewed items, ten requests per user, one row in a thousand
malformed and one in two hundred on an unknown item.  What is timed is ``sidar.data.build``:
catalogue, validation, quarantine, sorting, requests with histories, SFT rows, preference lists,
priors and the evaluation sets of the log, once per size, each in a fresh process.  ``seconds`` is
the CPU time of that process, ``wall_seconds`` the clock's; ``peak_rss_gb`` is the whole process's
peak.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import print_table, write_results

DAY0 = 1_767_571_200_000_000  # 2026-01-05
SPAN = 8 * 86_400_000_000


def generate(folder: Path, rows: int, items: int) -> None:
    """Write ``catalogue.parquet`` and ``events.parquet``."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(folder / "spill")})
    con.execute("SET preserve_insertion_order = false")

    def save(sql: str, name: str) -> None:
        con.execute(f"COPY ({sql}) TO '{folder / name}' (FORMAT parquet)").fetchall()

    shelf = "hash(i, 's') % 4000"
    save(
        f"""SELECT 'sku' || i AS item_id,
            'product ' || i || ' of shelf ' || ({shelf}) || ' in colour ' || (i % 17) AS title,
            ['shop', 'department ' || (({shelf}) % 40), 'shelf ' || ({shelf})] AS category,
            'brand ' || (i % 900) AS brand,
            CASE WHEN i % 5 > 0 THEN (i % 9973) / 10.0 END AS price FROM range({items}) t(i)""",
        "catalogue.parquet",
    )
    unit = "(hash(i, 'u') % 1000003) / 1000003.0"
    save(
        f"""WITH said AS (SELECT i, i // 10 AS r, i % 10 AS j FROM range({rows}) t(i)),
            placed AS (SELECT *, CASE WHEN j < 8 THEN j ELSE hash(r, 'c', j // 9) % 8 END AS p
            FROM said)
            SELECT CASE WHEN hash(i, 'b') % 1000 > 0 THEN
                    {DAY0} + r * ({SPAN} // ({rows} // 10)) + CASE WHEN j < 8 THEN 0
                    ELSE j * 7000000 END END AS ts,
                'user' || (hash(r, 'who') % {max(rows // 100, 1)}) AS user_id, 'req'
                || r AS request_id,
                'shelf ' || (hash(r, 'q') % 4000) || ' colour ' || (hash(r, 'k') % 17) AS query,
                CASE WHEN hash(i, 'x') % 200 = 0 THEN 'gone' || i
                    ELSE 'sku' || floor({items} * pow((hash(r, p, 'item') % 1000003) / 1000003.0,
                    3))::BIGINT
                END AS item_id,
                p + 1 AS position,
                CASE WHEN j < 8 THEN 'impression' WHEN {unit} < 0.7 THEN 'click'
                WHEN {unit} < 0.9 THEN 'cart'
                     ELSE 'order' END AS action,
                CASE WHEN hash(r, 'z') % 10 = 0 THEN 'random' ELSE '' END AS bucket
            FROM placed""",
        "events.parquet",
    )


def measure(folder: Path, memory: str, threads: int) -> dict[str, float]:
    """Run the stage in this process."""
    from sidar.config import Config
    from sidar.data import build

    cfg = Config(threads=threads)
    cfg.catalogue.path = str(folder / "catalogue.parquet")
    cfg.events.path = str(folder / "events.parquet")
    cfg.events.memory = memory
    cfg.evaluate.targets = ["click", "order", "random_click"]
    wall, cpu = time.perf_counter(), time.process_time()
    report = build(cfg, folder / "data")
    size = sum(f.stat().st_size for f in (folder / "data").rglob("*") if f.is_file())
    return {
        "seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "requests": report["requests"]["total"],
        "lists": report["lists"]["total"],
        "quarantined": report["quarantined"],
        "output_gb": size / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 20_000_000])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", default="1GB", help="DuckDB's cap (events.memory)")
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    parser.add_argument("--worker", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        step, folder = args.worker[0], Path(args.worker[1])
        if step == "generate":
            generate(folder, args.rows[0], args.items)
        else:
            print(json.dumps(measure(folder, args.memory, args.threads)))
        return

    figures: dict[str, float] = {}
    table = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="sidar-scale-") as folder:
            own = [sys.executable, __file__, "--rows", str(rows), "--items", str(args.items)]
            own += ["--threads", str(args.threads), "--memory", args.memory]
            subprocess.run([*own, "--worker", "generate", folder], check=True)
            done = subprocess.run(
                [*own, "--worker", "measure", folder], check=True, stdout=subprocess.PIPE, text=True
            )
        found = json.loads(done.stdout.splitlines()[-1])
        label = f"{rows // 1_000_000}m" if rows % 1_000_000 == 0 else str(rows)
        figures |= {f"{key}_{label}": value for key, value in found.items()}
        table.append([f"{rows:,}", *found.values()])
    print_table(["rows", *found], table, "the data stage, one fresh process per size")
    if {"seconds_2m", "seconds_20m"} <= set(figures):
        figures["seconds_ratio_20m_over_2m"] = figures["seconds_20m"] / figures["seconds_2m"]
        print(
            f"20M over 2M: {figures['seconds_ratio_20m_over_2m']:.2f} times the CPU time for 10 "
            "times the rows"
        )
    if not args.no_write:
        engines = {name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow")}
        config = {"rows": args.rows, "items": args.items, "memory": args.memory}
        print(
            "wrote "
            f"{write_results('data_scale', config, figures, threads=args.threads, engines=engines)}"
        )


if __name__ == "__main__":
    main()
