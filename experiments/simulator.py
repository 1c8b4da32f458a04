"""The simulator's marginals and CPU seconds for its presets on the embedded sample: the table of
docs/simulator.md.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from experiments.common import print_table, process_cpu_timer, single_thread, write_results

single_thread()

from sidar import simulate
from sidar.data import sample


def flat(preset: str, values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """``{"ctr_by_position": {"1": x}}`` → ``{"ctr_by_position_1_demo": x}``."""
    out: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= flat(preset, value, f"{prefix}{name}_")
        else:
            out[f"{prefix}{name}_{preset}"] = value
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["demo", "full"])
    args = parser.parse_args()
    catalogue = sample.load_catalogue()
    figures: dict[str, float] = {}
    settings: dict[str, Any] = {}
    for preset in args.presets:
        config = simulate.load_config(preset)
        with tempfile.TemporaryDirectory() as folder, process_cpu_timer() as seconds:
            report = simulate.run(catalogue, config, folder)
        values = {
            "cpu_seconds": seconds[0],
            "intents": report["grounded_intents"],
            **report["marginals"],
        }
        figures |= flat(preset, values)
        kept = ("config", "config_hash", "lexicon_hash", "catalogue_lineage")
        settings[preset] = {name: report[name] for name in kept}
    names = sorted({name.rsplit("_", 1)[0] for name in figures})
    rows = [
        [name, *(float(figures.get(f"{name}_{preset}", 0)) for preset in args.presets)]
        for name in names
    ]
    print_table(["SIMULATED log", *args.presets], rows)
    print(write_results("simulator", settings, figures))


if __name__ == "__main__":
    main()
