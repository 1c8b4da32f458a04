"""The tabular lab: why RAD-DPO helps or does not, on a policy small enough that thousands of seeds
take seconds.

A softmax policy is a table of logits per prefix of a small SID trie; each query has known graded
relevance, a log with pseudo-negatives and accidental clicks, and an SFT policy fitted to that log.
The project's own objectives (:func:`sidar.align.objective`) train the table; no language model is
loaded.  Five experiments:

    A  squeezing: where each objective moves probability (docs/methods/dpo.md)
    B  TLGD's coefficient, and what it does to validity, quality and oscillation
    C  the printed reading of eq. 2 against the softmax one, over n and β
    D  RDRW against noise: which AUC must its similarity have to pay off?
    E  when must RAD-DPO beat SFT-continued?

Run ``python -m experiments.lab``: it prints the tables, writes
experiments/results/prefix_lab.json and docs/images/lab-*.png, and brings docs/prefix-lab.md up to
date.  ``--out FOLDER`` writes there and leaves the page as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from experiments import common

common.single_thread()

import torch

from experiments.lab import mechanisms, pictures, policy, predictions, report
from experiments.lab.figures import Figures
from experiments.lab.world import LEVELS, Dials

ROOT = common.ROOT
PAGE = ROOT / "docs" / "prefix-lab.md"


def run(seeds: int) -> tuple[Figures, dict[str, object]]:
    """All experiments, and what they ran with.

    The grids of B, C and E take fewer seeds than A and D.
    """
    figures, half, quarter = Figures(), max(2, seeds // 2), max(2, seeds // 4)
    mechanisms.squeezing(figures, seeds)
    mechanisms.coefficients(figures, seeds)
    mechanisms.shared_prefixes(figures, half)
    mechanisms.readings(figures, half)
    predictions.rdrw_against_noise(figures, seeds)
    predictions.effect_map(figures, quarter)
    predictions.effect_lines(figures, half)
    chosen = predictions.best_settings(figures, half)
    config = {
        "seeds": {"A": seeds, "B": half, "C": half, "D": seeds, "E map": quarter, "E dials": half},
        "queries_per_seed": 4,
        "levels": LEVELS,
        "standard": dataclasses.asdict(Dials()),
        "rates": {"sft": policy.SFT_RATE, "align": policy.ALIGN_RATE, "steps": policy.ALIGN_STEPS},
        "map": predictions.MAP,
        "lines": predictions.LINES,
        "chosen": chosen,
    }
    return figures, config


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--seeds",
        type=int,
        default=150,
        help="of experiments A and D; the others take a share of it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the results and pictures (default: the repository's own)",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.process_time()
    figures, config = run(options.seeds)
    for build in report.TABLES.values():
        title, header, rows = build(figures)
        common.print_table(header, rows, title)
        print()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    pictures.draw(figures, options.out or ROOT / "docs" / "images")
    seconds = round(time.process_time() - start, 1)
    folder = options.out or common.RESULTS
    path = common.write_results("prefix_lab", config, figures, folder=folder, seconds=seconds)
    if options.out is None:
        PAGE.write_text(report.fill(PAGE.read_text(), figures))
    print(f"{seconds} s of one core; figures in {path}")


if __name__ == "__main__":
    main()
