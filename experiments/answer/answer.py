"""The served answer beside what a shop already has: the click table, lexical and dense search, each
model alone.

    python -m experiments.answer.answer --work /var/tmp/sidar-answer

Everything is SIMULATED: preset `full` on the embedded sample, the bed of the evidence for RAD-DPO,
with RAD-DPO as it is shipped except for RDRW's window, which is the bed's (512, not 4096). Per seed
an SFT and an aligned model are trained; what the answer needs is fitted on day 7 with the counts of
the days before, as the pipeline's stage `answer` does it, and day 8 is scored: clicks, orders,
clicks in the randomised bucket, true utility, each over all, seen and unseen queries, and the
held-out judged and grounded queries. Expected signs stand in answer.yaml. Resumable by seed;
`--only 0,1` runs some, `--page` aggregates what there is.

Writes results/answer.json: figures `<a>_minus_<b>_<target>_<part>` with `_low`, `_high`, `_p`,
`_detectable`, and the per-query values of `memory` on the evidence's kept test requests with the
comparisons that it turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from dataclasses import replace
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
from sidar.baselines import System

WORK = Path(tempfile.gettempdir()) / "sidar-answer"
POOLS = ("day8", "judged_test", "grounded_test")
MEASURES = ("ndcg@10", "mrr", "recall@100")
#: Rows of which one is the other's control: (name in figures, a, b).
PAIRS = (
    ("answer_minus_memory", "answer", "memory"),
    ("answer_minus_without_lm", "answer", "answer-without-lm"),
    ("answer_minus_bm25_dense", "answer", "bm25+dense"),
    ("answer_minus_bm25_dense_prior", "answer", "bm25+dense+prior"),
    ("answer_minus_bm25", "answer", "bm25"),
    ("answer_minus_dense", "answer", "dense"),
    ("answer_minus_raddpo", "answer", "raddpo"),
    ("answer_minus_raddpo_rerank", "answer", "raddpo+rerank"),
    ("answer_minus_bm25_dense_raddpo", "answer", "bm25+dense+raddpo"),
    ("share_minus_listed_sft", "sft", "sft listed"),
    ("share_minus_listed_raddpo", "raddpo", "raddpo listed"),
    ("share_minus_uniform_raddpo", "raddpo", "raddpo uniform"),
    ("raddpo_minus_sft", "raddpo", "sft"),
    ("memory_minus_bm25_dense_raddpo", "memory", "bm25+dense+raddpo"),
    ("memory_minus_raddpo", "memory", "raddpo"),
)


def settings(seed: int) -> dict[str, Any]:
    """What differs from the bed: beta .5 and 480 steps of alignment, as shipped, and the seed.

    The window stays 512.
    """
    from experiments.raddpo.registration import registration

    align = {
        **registration()["bed"]["settings"]["align"],
        "steps": 480,
        "checkpoint_every": 480,
        "validate_every": 240,
    }
    return {
        "seed": seed,
        "threads": 1,
        "device": "cpu",
        "align": align,
        "decode": {"rerank": "dense"},
    }


def train(work: Path, seed: int) -> Path:
    """Train the SFT and the aligned model of a seed; finished ones are kept, interrupted work goes
    on.
    """
    import torch

    from experiments.raddpo.bed import Bed
    from experiments.raddpo.registration import registration
    from sidar.train import train_align, train_sft

    torch.set_num_threads(1)
    bed, folder = Bed(work), work / "models" / f"seed-{seed}"
    cfg = bed.config(**settings(seed))
    data, sid = bed.data(), bed.sid("/".join(map(str, registration()["bed"]["codebooks"])))
    for name in ("sft", "raddpo"):
        if (folder / name / "done.json").is_file():
            continue
        tmp = folder / f".{name}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        keep = folder / f".{name}.work"
        started = time.process_time()
        if name == "sft":
            report = train_sft(cfg, data, None, sid, tmp, work=keep, progress=False)
        else:
            report = train_align(cfg, data, sid, folder / "sft", tmp, work=keep, progress=False)
        shutil.rmtree(tmp / "best", ignore_errors=True)
        facts = {
            "cpu_seconds": round(time.process_time() - started, 1),
            "summary": report["summary"],
        }
        (tmp / "done.json").write_text(json.dumps(facts) + "\n")
        shutil.rmtree(folder / name, ignore_errors=True)
        tmp.rename(folder / name)
        shutil.rmtree(keep, ignore_errors=True)
        print(
            f"seed {seed}: {name}, {facts['cpu_seconds']:.0f} CPU s: {facts['summary']}", flush=True
        )
    return folder


def run_folder(work: Path, seed: int) -> tuple[Any, Path]:
    """A run as the pipeline leaves it, of the bed's data, vectors and SIDs and this seed's models;
    and its config.
    """
    from experiments.raddpo.bed import Bed
    from experiments.raddpo.registration import registration
    from sidar.index import PrefixIndex
    from sidar.pipeline import stages
    from sidar.pipeline.runtime import folders

    bed = Bed(work)
    cfg = bed.config(**settings(seed), runs=str(work / "runs"), name=f"seed-{seed}")
    cfg.evaluate.bootstrap, cfg.evaluate.invalid_queries = 200, 0
    run = cfg.run_dir
    run.mkdir(parents=True, exist_ok=True)
    sid = bed.sid("/".join(map(str, registration()["bed"]["codebooks"])))
    models = work / "models" / f"seed-{seed}"
    parts = {"data": bed.data(), "embed": bed.embed, "sid": sid, "sft": models / "sft"}
    for name, source in {**parts, cfg.align.folder: models / "raddpo"}.items():
        if not (run / name).exists():
            (run / name).symlink_to(source, target_is_directory=True)
    for name, make in (("index", stages.index), ("answer", stages.answer)):
        if (run / name).exists():
            continue
        tmp = run / f".{name}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        report = make(cfg, folders(run, (*parts, cfg.align.folder, "index")), tmp, run / ".work")
        tmp.rename(run / name)
        print(f"seed {seed}: {name}: {report['summary']}", flush=True)
    assert PrefixIndex.load(run / "index").counts is not None
    return cfg, run


class Expanded(System):
    """A model's beams expanded to items in another way: ``none`` = SIDs listed whole, one after
    another, as answers were made until 2026-11-27; ``uniform`` = the items of an SID share it
    equally."""

    def __init__(self, model: Any, rule: str) -> None:
        self.name, self._model, self._rule = (
            f"{model.name} {'listed' if rule == 'none' else rule}",
            model,
            rule,
        )

    def hits(self, prompts: Any, k: int) -> Any:
        from sidar.decode import to_hits
        from sidar.index.shares import ItemShares

        searcher = self._model.retriever
        shares = (
            None
            if self._rule == "none"
            else ItemShares.of(searcher.index, searcher.allowed, rule="uniform")
        )
        return to_hits(
            self._model.beams(prompts), searcher.index, k, shares=shares, allowed=searcher.allowed
        )


def score(work: Path, seed: int) -> None:
    """Score every row on the pools of the evidence and leave
    ``cells/seed-<n>/per_query.parquet``.
    """
    import torch

    from experiments.raddpo.bed import Bed
    from experiments.raddpo.sets import pools
    from sidar.baselines import Bm25, QuantisedDense
    from sidar.data import open_dataset
    from sidar.embed import load_embedder, load_items, query_side
    from sidar.evaluate.measures.metrics import objective
    from sidar.evaluate.suite import run_suite
    from sidar.evaluate.systems import TextSystem
    from sidar.index import PrefixIndex
    from sidar.pipeline.rows.answer_rows import answer_rows
    from sidar.pipeline.rows.dense_rows import dense_rows
    from sidar.pipeline.rows.generative import GenerativeSystem
    from sidar.pipeline.rows.rerank import Reranked
    from sidar.pipeline.runtime import folders
    from sidar.sid import load_sids, load_tokenizer

    out = work / "cells" / f"seed-{seed}"
    if (out / "done.json").is_file():
        return
    torch.set_num_threads(1)
    started = time.process_time()
    cfg, run = run_folder(work, seed)
    dataset = open_dataset(run / "data")
    catalogue, priors = dataset.catalogue, dataset.priors()
    valid = [
        _first(each, 128)
        for each in dataset.eval_sets("valid")
        if each.name != "day7-random-clicks"
    ]
    dev = next(each for each in dataset.eval_sets("valid") if each.name == "judged_dev")
    lexical = Bm25(catalogue).tune(
        [p.query for p in dev.prompts], objective(dev, catalogue, "ndcg@10")
    )
    embedder = load_embedder(cfg.embed, "cpu")
    index, sids = (
        PrefixIndex.load(run / "index"),
        load_sids(run / "sid" / "sids.parquet", catalogue.item_ids),
    )
    systems: dict[str, Any] = {
        "bm25": TextSystem("bm25", lexical),
        **dense_rows(cfg, run / "embed", embedder, catalogue.alive),
    }
    clusters = load_tokenizer(run / "sid").reconstruct(index.table)
    systems["quantised-dense"] = QuantisedDense(
        clusters, index.expand_with_source, query_side(embedder)
    )
    for name, folder in (("sft", "sft"), ("raddpo", cfg.align.folder)):
        model = GenerativeSystem(
            name, run / folder / "model", index, sids, catalogue, cfg.decode, "cpu"
        )
        systems |= {
            name: model,
            f"{name} listed": Expanded(model, "none"),
            f"{name} uniform": Expanded(model, "uniform"),
        }
        systems[f"{name}+rerank"] = Reranked(
            model, query_side(embedder).encode, load_items(run / "embed")
        )
    inputs = folders(run, ("data", "embed", "answer"))
    rows = answer_rows(cfg, inputs, systems, embedder, priors, run / ".work")
    for system in systems.values():
        if isinstance(system, Reranked) and system.weight is None:
            system.tune(*rows.tuning_of([], 0)[:1], catalogue, 10**6)
    tmp = work / "cells" / f".seed-{seed}.tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    run_suite(
        {**systems, **rows.systems},
        [each for pool in pools(Bed(work), POOLS) for each in _sets(pool)],
        catalogue,
        priors,
        index,
        out=tmp,
        cfg=cfg,
        tune_sets=valid,
        fuse_with={"raddpo"},
        topic_oracle=(),
    )
    facts = json.loads((run / "answer" / "answer.json").read_text())
    done = {"cpu_seconds": round(time.process_time() - started, 1), "answer": facts}
    (tmp / "done.json").write_text(json.dumps(done, indent=1) + "\n")
    shutil.rmtree(tmp / "runs", ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    tmp.rename(out)
    print(f"seed {seed}: scored, {done['cpu_seconds']:.0f} CPU s", flush=True)


def _first(each: Any, most: int) -> Any:
    """``most`` queries of a set, by hash."""
    from sidar.evaluate.slices import subset_by_hash

    at = subset_by_hash(each.query_ids, most)
    ids, prompts = tuple(each.query_ids[i] for i in at), tuple(each.prompts[i] for i in at)
    return replace(
        each, query_ids=ids, prompts=prompts, slices={n: v[at] for n, v in each.slices.items()}
    )


def _sets(pool: Any) -> list[Any]:
    """The targets of a pool as evaluation sets: ``clicks``, ``orders``, ``random``, ``utility``, or
    the pool itself.
    """
    import numpy as np

    from sidar.types import EvalSet

    names = {
        "click": "clicks",
        "order": "orders",
        "random": "random",
        "utility": "utility",
        "": pool.name,
    }
    made = []
    for target, one in pool.targets.items():
        at = one.at.tolist()
        ids, prompts = tuple(pool.query_ids[q] for q in at), tuple(pool.prompts[q] for q in at)
        labels = np.array([pool.slices["query"][q] for q in at], dtype=object)
        origin = "real" if pool.name.startswith("judged") else "simulated"
        slices = {"query": labels} if target else {}
        made.append(EvalSet(names[target], ids, prompts, one.qrels, origin, slices))
    return made


# ---------------------------------------------------------------------- the results file


def aggregate(work: Path, seeds: list[int]) -> None:
    """Write results/answer.json from the cells of ``seeds`` and print the table."""
    import numpy as np
    import yaml

    from sidar.evaluate.perquery import PerQuery, read_clusters
    from sidar.evaluate.stats import holm, paired_tests, verdict

    cells = {seed: PerQuery.read(work / "cells" / f"seed-{seed}") for seed in seeds}
    clusters = read_clusters(work / "cells" / f"seed-{seeds[0]}")
    first = cells[seeds[0]]
    figures: dict[str, float] = {"seeds": len(seeds)}
    tests: list[dict[str, Any]] = []
    means: dict[str, dict[str, dict[str, float]]] = {}
    for name in first.sets():
        means[name] = {}
        for system in first.systems(name):
            found = {m: [cells[s].get(name, system, f"item/{m}") for s in seeds] for m in MEASURES}
            means[name][system] = {
                m: float(np.mean([values[1].mean() for values in each if values]))
                for m, each in found.items()
            }
        columns, asked = [], []
        for figure, a, b in PAIRS:
            for measure in ("ndcg@10", "mrr"):
                pairs = [
                    (
                        cells[s].get(name, a, f"item/{measure}"),
                        cells[s].get(name, b, f"item/{measure}"),
                    )
                    for s in seeds
                ]
                if all(x and y for x, y in pairs):
                    columns.append(np.concatenate([x[1] - y[1] for x, y in pairs]))
                    asked.append(
                        (figure, measure, a, b, [float((x[1] - y[1]).mean()) for x, y in pairs])
                    )
        if not columns:
            continue
        ids = first.get(name, asked[0][2], "item/ndcg@10")[0]
        labels = np.tile(np.array([clusters[name][i] for i in ids]), len(seeds))
        found_tests = paired_tests(np.stack(columns, axis=1), labels, 0, samples=2000)
        adjusted = holm([t.p for t in found_tests])
        for (figure, measure, a, b, by_seed), test, p in zip(
            asked, found_tests, adjusted, strict=True
        ):
            target, _, part = name.partition("/")
            key = f"{figure}_{target}_{part or 'all'}" + (
                "" if measure == "ndcg@10" else f"_{measure}"
            )
            figures |= {key: test.effect, f"{key}_low": test.low, f"{key}_high": test.high}
            figures |= {
                f"{key}_p": test.p,
                f"{key}_p_holm": float(p),
                f"{key}_detectable": test.detectable,
            }
            tests.append(
                {
                    "set": name,
                    "a": a,
                    "b": b,
                    "measure": measure,
                    "effect": test.effect,
                    "low": test.low,
                    "high": test.high,
                    "p": test.p,
                    "p_holm": float(p),
                    "detectable": test.detectable,
                    "verdict": verdict(test, float(p)),
                    "by_seed": by_seed,
                    "clusters": test.clusters,
                    "n": test.n,
                }
            )
    memory, turned = memory_beside_the_evidence(first, clusters)
    expected = yaml.safe_load((ROOT / "experiments" / "answer" / "answer.yaml").read_text())
    constants = {
        s: json.loads((work / "cells" / f"seed-{s}" / "done.json").read_text()) for s in seeds
    }
    write_results(
        "answer",
        {"expected": expected, "origin": "SIMULATED traffic, preset full; judged_test is real"},
        figures,
        means=means,
        tests=tests,
        fitted={
            str(s): each["answer"]["fit"] | {"reranked": each["answer"]["reranked"]}
            for s, each in constants.items()
        },
        memory_on_evidence_requests=memory,
        verdicts_that_memory_turns=turned,
    )
    write_between(PAGE, MARKS, page_table(json.loads((RESULTS / "answer.json").read_text())))
    shown = [
        t
        for t in tests
        if t["measure"] == "ndcg@10" and t["a"] in ("answer", "sft", "raddpo", "memory")
    ]
    print_table(
        ["set", "a", "b", "effect", "low", "high", "p Holm", "detectable", "verdict"],
        [
            [
                t["set"],
                t["a"],
                t["b"],
                t["effect"],
                t["low"],
                t["high"],
                t["p_holm"],
                t["detectable"],
                t["verdict"],
            ]
            for t in shown
        ],
        "a - b, item nDCG@10",
    )


PAGE = ROOT / "docs" / "answer.md"
MARKS = ("<!-- answer table -->\n", "<!-- /answer table -->")
#: Rows of the page's table: what is asked, and the figure's name.
ASKED = (
    ("answer − memory", "answer_minus_memory"),
    ("answer − the same without the language model", "answer_minus_without_lm"),
    ("answer − bm25+dense", "answer_minus_bm25_dense"),
    ("answer − bm25+dense+raddpo", "answer_minus_bm25_dense_raddpo"),
    ("answer − raddpo alone", "answer_minus_raddpo"),
    ("shares − SIDs listed whole, raddpo alone", "share_minus_listed_raddpo"),
    ("shares − equal shares, raddpo alone", "share_minus_uniform_raddpo"),
)
SETS = (
    "clicks",
    "clicks/seen",
    "clicks/unseen",
    "orders",
    "random",
    "utility",
    "judged_test",
    "grounded_test",
)


def page_table(results: dict[str, Any]) -> str:
    """The table of docs/answer.md: item nDCG@10, effect and 95 % interval; bold where it holds
    after Holm.
    """
    figures = results["figures"]
    lines = [f"| | {' | '.join(SETS)} |", "|---" * (len(SETS) + 1) + "|"]
    for words, name in ASKED:
        cells = []
        for each in SETS:
            target, _, part = each.partition("/")
            key = f"{name}_{target}_{part or 'all'}"
            if key not in figures:
                cells.append("")
                continue
            effect, low, high = figures[key], figures[f"{key}_low"], figures[f"{key}_high"]
            told = f"{effect:+.3f} ({low:+.3f} to {high:+.3f})"
            sure = figures[f"{key}_p_holm"] < 0.05
            cells.append(f"**{told}**" if sure else told)
        lines.append(f"| {words} | {' | '.join(cells)} |")
    seeds = int(figures["seeds"])
    lines += [
        "",
        (
            f"{seeds} model seeds; from `experiments/results/answer.json` (`python -m "
            "experiments.answer.answer`)."
        ),
    ]
    return "\n".join(lines) + "\n"


def memory_beside_the_evidence(
    values: Any, clusters: dict[str, dict[str, str]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Per-query values of ``memory`` on the requests of the evidence's kept cells, and what it does
    to their rows.

    For every kept system the mean over its seeds of item nDCG@10 against memory's, paired by
    request.
    """
    import numpy as np

    from sidar.evaluate.stats import paired_test, verdict

    kept: dict[str, Any] = {}
    turned: list[dict[str, Any]] = []
    for name, target in TARGETS_OF_THE_EVIDENCE.items():
        found = values.get(name, "memory", "item/ndcg@10")
        if found is None:
            continue
        kept[name] = {"query_id": list(found[0]), "ndcg@10": [round(float(v), 6) for v in found[1]]}
        mine = dict(zip(found[0], found[1], strict=True))
        for system, rows in evidence_rows(f"{target}.item.ndcg@10").items():
            known = [(query, value) for query, value in rows if query in mine]
            if not known:
                continue
            differences = np.array([value - mine[query] for query, value in known])
            labels = np.array([clusters[name][query] for query, _ in known])
            test = paired_test(differences, np.zeros(len(differences)), labels)
            turned.append(
                {
                    "target": name,
                    "system": system,
                    "minus_memory": test.effect,
                    "low": test.low,
                    "high": test.high,
                    "p": test.p,
                    "verdict_better_than_memory": verdict(test, test.p),
                    "requests": len(differences),
                }
            )
    return kept, turned


#: Targets of day 8 here -> in the evidence for RAD-DPO.
TARGETS_OF_THE_EVIDENCE = {
    "clicks": "click",
    "orders": "order",
    "random": "random",
    "utility": "utility",
}
#: Rows of the evidence that the click table is set beside.
EVIDENCE_SYSTEMS = (
    *("bm25", "dense", "dense-tuned", "bm25+dense", "bm25+dense-tuned", "popularity"),
    *("sft", "sft-continued", "raddpo", "raddpo-paper", "dpo", "simpo", "orpo", "sdpo"),
)


def evidence_rows(measure: str) -> dict[str, list[tuple[str, float]]]:
    """{system: (request, value) of day 8, seed by seed} of the evidence's kept cells."""
    import numpy as np

    from experiments.raddpo.store import Values

    kept = Values(RESULTS / "raddpo")
    found: dict[str, list[tuple[str, float]]] = {}
    for system in EVIDENCE_SYSTEMS:
        for cell in (system, *(f"{system}.s{seed}" for seed in range(10))):
            values = kept.column(cell, measure)
            if values is None:
                continue
            rows = kept.rows[cell]
            ids, sets = kept.keys["query_id"][rows], kept.keys["set"][rows]
            there = np.flatnonzero((sets == "day8") & np.isfinite(values))
            found.setdefault(system, []).extend(
                zip(ids[there].tolist(), values[there].tolist(), strict=True)
            )
    return found


def cell(work: Path, seed: int, train_only: bool) -> None:
    train(work, seed)
    if not train_only:
        score(work, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--only", default="", help="Seeds, comma-separated; default: all that are registered."
    )
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument(
        "--page", action="store_true", help="Aggregate the finished cells and run nothing."
    )
    args = parser.parse_args()
    single_thread()
    from experiments.raddpo.bed import Bed

    if args.page:
        done = [
            int(path.parent.name.split("-")[1])
            for path in sorted((args.work / "cells").glob("seed-*/done.json"))
        ]
        return aggregate(args.work, done)
    Bed(args.work).build()
    seeds = [int(seed) for seed in args.only.split(",") if seed] or [0, 1, 2, 3, 4]
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        pool.starmap(cell, [(args.work, seed, args.train_only) for seed in seeds], chunksize=1)
    done = [
        seed
        for seed in (0, 1, 2, 3, 4)
        if (args.work / "cells" / f"seed-{seed}" / "done.json").is_file()
    ]
    if done:
        aggregate(args.work, done)


if __name__ == "__main__":
    main()
