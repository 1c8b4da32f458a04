"""``python -m experiments.alignment``: plateau, tune, core, tune-all, all, report, page, rerun."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.alignment.bed import RESULTS, register


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.alignment", description=__doc__)
    parser.add_argument(
        "command",
        choices=["plateau", "tune", "core", "tune-all", "all", "report", "page", "rerun"],
    )
    parser.add_argument("cell", nargs="?", help="rerun: the name of a kept cell")
    parser.add_argument("--work", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", help="only these, comma-separated")
    parser.add_argument("--only", help="only cells whose name contains one of these")
    args = parser.parse_args()
    register()
    if args.command in ("report", "page"):
        from experiments.alignment.tables import update_page, write_figures

        write_figures(args.results)
        if args.command == "page":
            update_page(args.results)
        return
    if args.command == "rerun":
        from experiments.alignment.rerun import rerun

        sys.exit(rerun(args.cell, args.work, args.results))
    _run(args)


def _run(args: argparse.Namespace) -> None:
    from experiments.alignment.plan import cells
    from experiments.alignment.run import run

    seeds = None if args.seeds is None else [int(seed) for seed in args.seeds.split(",")]
    parts = args.only.split(",") if args.only else [""]
    wanted = [
        cell for cell in cells(args.command, seeds) if any(part in cell.name for part in parts)
    ]
    count = run(wanted, args.work.resolve(), args.results.resolve())
    print(f"{count} of {len(wanted)} cells were run; the others stand or are run elsewhere")
    if args.command in ("tune", "tune-all"):
        from experiments.alignment.tune import write

        for system, chosen in write(args.results).items():
            print(f"{system:16s} {chosen}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"experiments.alignment: {error}", file=sys.stderr)
        sys.exit(2)
