"""Share expansion against SIDs listed whole, on more requests of day 8 than answer.py kept.
EXPLORATORY.

    python -m experiments.answer.shares --work /var/tmp/sidar-answer

Asked after the registered comparison had failed (results/answer.json: a gain on day-8 clicks was
expected and +.003, which could be 0, was found), so nothing here confirms anything.  Trains
nothing: reads the SIMULATED bed and the RAD-DPO models that answer.py leaves, decodes day-8
requests with a click in the order of their hash, each under every model, and stops when the time is
up.  Both orders are made from the same beams of 128.

Two restrictions.  `several`: one of the SIDs that the first ten places hold, listed whole, has more
than one item on sale; this looks at beam and SID table, not at clicks.  `differ`: the first ten
places differ between the two orders. Everywhere else the difference is 0 by construction, so a
restriction makes an effect larger and not surer.  The kept sample is the first 1,000 requests;
`later` are those after it, in no earlier comparison of clicks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.common import (
    RESULTS,
    ROOT,
    print_table,
    single_thread,
    write_between,
    write_results,
)

WORK = Path(tempfile.gettempdir()) / "sidar-answer"
KEPT, BLOCK, TOP = 1000, 128, 10
PAIRS = (("share_minus_listed", "counts", "none"), ("share_minus_uniform", "counts", "uniform"))


MARKS = ("<!-- shares table -->\n", "<!-- /shares table -->")
PARTS = {
    "all": "all that were decoded",
    "kept": "of the kept sample",
    "later": "after it, in no earlier comparison of clicks",
    "several": "with an SID of several items among the first ten places",
    "differ": "whose first ten places differ",
}


def page_table(results: dict[str, Any]) -> str:
    """The table of docs/answer.md: shares minus SIDs listed whole, by part of the requests."""
    figures = results["figures"]
    lines = [
        "| day-8 requests with a click | share of them | shares − listed whole | p | detectable |",
        "|---" * 5 + "|",
    ]
    share = {"several": figures["requests_several"], "differ": figures["requests_differ"]}
    for part, words in PARTS.items():
        key = f"share_minus_listed_{part}"
        if key not in figures:
            continue
        effect, low, high = (figures[key + end] for end in ("", "_low", "_high"))
        cells = [words, f"{share[part]:.0%}" if part in share else ""]
        cells += [f"{effect:+.4f} ({low:+.4f} to {high:+.4f})"]
        cells += [f"{figures[key + '_p']:.4f}", f"{figures[key + '_detectable']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    n, total = int(figures["requests"]), int(figures["requests_of_day_8"])
    lines += [
        "",
        f"{n:,} of {total:,} requests under {int(figures['seeds'])} models, item nDCG@10, "
        "**simulated**; p is not corrected. From\n`experiments/results/shares.json` (`python -m "
        "experiments.answer.shares`).",
    ]
    return "\n".join(lines) + "\n"


def write_page() -> None:
    results = json.loads((RESULTS / "shares.json").read_text())
    write_between(ROOT / "docs" / "answer.md", MARKS, page_table(results))


def models_of(work: Path, catalogue: Any, index: Any, sids: Any) -> list[Any]:
    """The kept RAD-DPO models, one a seed."""
    from sidar.config import DecodeConfig
    from sidar.pipeline.rows.generative import GenerativeSystem

    folders = sorted((work / "models").glob("seed-*/raddpo/model"))
    names = [folder.parent.parent.name for folder in folders]
    return [
        GenerativeSystem(name, folder, index, sids, catalogue, DecodeConfig(), "cpu")
        for name, folder in zip(names, folders, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--minutes", type=float, default=11.0, help="CPU time.")
    parser.add_argument("--wall-minutes", type=float, default=120.0)
    parser.add_argument(
        "--page", action="store_true", help="Write the page's table from the kept results alone."
    )
    args = parser.parse_args()
    if args.page:
        return write_page()
    single_thread()
    import numpy as np
    import torch

    from sidar.config import DecodeConfig
    from sidar.data import open_dataset
    from sidar.decode import to_hits
    from sidar.evaluate.measures.metrics import score_ranking
    from sidar.evaluate.measures.truth import Truth
    from sidar.evaluate.slices import order_by_hash, query_cluster
    from sidar.index import PrefixIndex
    from sidar.serve.decoding import item_shares
    from sidar.sid import load_sids

    torch.set_num_threads(1)
    data, run = open_dataset(args.work / "data" / "base"), args.work / "runs" / "seed-0"
    catalogue, index = data.catalogue, PrefixIndex.load(run / "index")
    alive = None if catalogue.alive.all() else catalogue.alive
    clicks = next(each for each in data.eval_sets() if each.name == "day8-clicks")
    order = order_by_hash(clicks.query_ids).tolist()  # begins with the kept sample
    models = models_of(
        args.work, catalogue, index, load_sids(run / "sid" / "sids.parquet", catalogue.item_ids)
    )
    shares = {
        rule: item_shares(index, alive, DecodeConfig(item_share=rule))
        for rule in ("counts", "uniform", "none")
    }
    on_sale = np.zeros(len(index), np.int64)
    sid_of_entry = np.repeat(np.arange(len(index)), np.diff(index.rows_start))
    np.add.at(on_sale, sid_of_entry, catalogue.alive[index.rows])

    values: dict[str, list[np.ndarray]] = {rule: [] for rule in shares}
    several, differ, done = [], [], 0
    started, begun = time.process_time(), time.monotonic()

    def in_time() -> bool:
        return (
            time.process_time() - started < 60 * args.minutes
            and time.monotonic() - begun < 60 * args.wall_minutes
        )

    while done < len(order) and in_time():
        at = order[done : done + BLOCK]
        ids = [clicks.query_ids[q] for q in at]
        truth = Truth.of_catalogue({i: clicks.qrels[i] for i in ids}, ids, catalogue, 0.0)
        rows: dict[str, list[np.ndarray]] = {rule: [] for rule in shares}
        holds = []
        for model in models:
            beams = model.retriever.beams([clicks.prompts[q] for q in at], DecodeConfig().beam)
            for rule, share in shares.items():
                rows[rule].append(to_hits(beams, index, TOP, shares=share, allowed=alive).rows)
            # SIDs that the first ten places hold when SIDs are listed whole
            size = np.where(beams.sids >= 0, on_sale[np.maximum(beams.sids, 0)], 0)
            shown = np.cumsum(size, axis=1) - size < TOP
            holds.append(((size > 1) & shown).any(axis=1))
        for rule in shares:
            values[rule].append(
                np.stack([score_ranking(truth, r, ["ndcg@10"])["ndcg@10"] for r in rows[rule]])
            )
        several.append(np.stack(holds))
        differ.append(
            np.stack([(a != b).any(1) for a, b in zip(rows["counts"], rows["none"], strict=True)])
        )
        done += len(at)
        print(
            f"{done:,} of {len(order):,} requests, {time.process_time() - started:.0f} CPU s",
            flush=True,
        )
    asked = [clicks.prompts[q] for q in order[:done]]
    clusters = np.array(
        [query_cluster(p.query) or clicks.query_ids[q] for p, q in zip(asked, order, strict=False)]
    )
    # (seeds, requests)
    joined = {rule: np.concatenate(parts, axis=1) for rule, parts in values.items()}
    report(
        joined,
        np.concatenate(several, axis=1),
        np.concatenate(differ, axis=1),
        clusters,
        len(order),
        on_sale,
    )


def report(values: Any, several: Any, differ: Any, clusters: Any, total: int, on_sale: Any) -> None:
    """Write results/shares.json and print it; ``values`` {rule: (S, R)}, ``several`` and ``differ``
    (S, R) bool.
    """
    import numpy as np

    from sidar.evaluate.stats import paired_tests

    seeds, requests = several.shape
    later = np.broadcast_to(np.arange(requests) >= KEPT, several.shape)
    figures: dict[str, float] = {
        "seeds": seeds,
        "requests": requests,
        "requests_of_day_8": total,
        "items_per_sid": float(on_sale[on_sale > 0].mean()),
        "sids_of_several_items": float((on_sale > 1).sum() / (on_sale > 0).sum()),
        "requests_several": float(several.mean()),
        "requests_differ": float(differ.mean()),
        "requests_ndcg_differs": float((values["counts"] != values["none"]).mean()),
    }
    parts = {
        "all": np.ones_like(several),
        "kept": ~later,
        "later": later,
        "several": several,
        "differ": differ,
    }
    rows = []
    labels = np.broadcast_to(clusters, several.shape)
    for name, a, b in PAIRS:
        difference = values[a] - values[b]
        for part, mask in parts.items():
            if not mask.any():
                continue
            (test,) = paired_tests(difference[mask][:, None], labels[mask], 0, samples=2000)
            key = f"{name}_{part}"
            figures |= {
                key: test.effect,
                f"{key}_low": test.low,
                f"{key}_high": test.high,
                f"{key}_p": test.p,
            }
            figures |= {f"{key}_detectable": test.detectable, f"{key}_n": test.n}
            rows.append(
                [name, part, test.effect, test.low, test.high, test.p, test.detectable, test.n]
            )
    by_seed = {name: (values[a] - values[b]).mean(axis=1).round(6).tolist() for name, a, b in PAIRS}
    write_results(
        "shares",
        {
            "origin": "SIMULATED traffic, preset full",
            "status": "exploratory",
            "measure": "item nDCG@10, day-8 clicks",
        },
        figures,
        by_seed=by_seed,
    )
    write_page()
    print_table(
        ["pair", "requests", "effect", "low", "high", "p", "detectable", "n"], rows, "item nDCG@10"
    )
    print({key: value for key, value in figures.items() if "minus" not in key})


if __name__ == "__main__":
    main()
