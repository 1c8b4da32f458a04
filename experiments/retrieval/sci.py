"""SCI: what input swapping does to two towers, and what the dual-view index makes of it
(docs/methods/sci.md).

Towers are trained on the training rows of a finished run (default: the simulated log of the
embedded sample) and measured on its held-out catalogue-grounded queries. Two starts:

* ``words``: static word vectors. ``same start``: both towers begin as one random table; ``own
  starts``: each as its own, so that nothing but the loss brings them together. Cheap, hence several
  seeds and every variant.
* ``minilm``: both towers begin as MiniLM. Minutes a variant on one core, hence one seed and the
  main variants.

Per model: parameters, exact nDCG@10 and Recall@100, modality gap, linear CKA, self-consistency, the
SID's first code on either side, and per coarse view of the index the routing agreement and
Recall(IVF) / Recall(exact).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.common import ROOT, print_table, single_thread, write_between, write_results

single_thread()

import numpy as np
import torch

from sidar.config import DenseConfig, EmbedConfig
from sidar.data import open_dataset
from sidar.embed import SentenceEmbedder, TowerEmbedder, item_texts, minilm_folder
from sidar.embed.encoder import load_sentence_transformer
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.slices import query_cluster
from sidar.evaluate.stats import paired_tests
from sidar.evaluate.views import linear_cka, modality_gap, self_ranks
from sidar.index.dual_view import DualViewIndex, routed
from sidar.sid import RqKmeans
from sidar.train.encoder.dense import tune
from sidar.train.encoder.pairs import LogPairs, PseudoPairs
from sidar.train.pseudo import item_words
from sidar.types import Hits, SidInputs

PAGE = ROOT / "docs" / "methods" / "sci.md"
MARKS = ("<!-- sci table -->\n", "<!-- /sci table -->")
VIEWS = ("item", "query", "both")
NPROBE = (1, 2, 4, 8, 16)
K = (10, 100)
WORDS = {"steps": 300, "batch_size": 128, "lr": 6e-2, "precision": "fp32", "weight_decay": 0.0}
MINILM = {"steps": 30, "batch_size": 64, "lr": 5e-5, "precision": "auto"}
SHARED = {"symmetric": True, "validate_every": 10**9}
VARIANTS = {
    "untrained": {"towers": "two", "swap": 0},
    "siamese": {"towers": "tied"},
    "two": {"towers": "two", "swap": 0},
    "two+swap": {"towers": "two", "swap": 1},
    "two+swap .2": {"towers": "two", "swap": 0.2},
    "two+swap+cross": {"towers": "two", "swap": 1, "cross": 1},
    "two+mean": {"towers": "two", "swap": 0, "match": "mean"},
    "two+coral": {"towers": "two", "swap": 0, "match": "coral", "match_weight": 10},
    "two, hinge": {"towers": "two", "swap": 0, "loss": "hinge"},
    "two+swap, hinge": {"towers": "two", "swap": 1, "loss": "hinge"},
}
PANELS = {
    "words, same start": [name for name in VARIANTS if name not in ("untrained", "two+swap+cross")],
    "words, own starts": ["two", "two+swap", "two+swap .2", "two+swap+cross"],
    "minilm": ["untrained", "siamese", "two", "two+swap"],
}
#: Baselines and the other loss are run with one seed.
ONE_SEED = ("two+mean", "two+coral", "two, hinge", "two+swap, hinge")
#: (a, view of a, b, view of b): is a better than b, each through its own cells?
ASKED = [
    ("two+swap", "query", "two", "query"),
    ("two+swap", "query", "two", "item"),
    ("two+swap", "query", "two+swap", "item"),
    ("two+swap", "query", "siamese", "item"),
    ("two", "both", "two", "item"),
    ("two+swap .2", "query", "two", "item"),
    ("two+swap .2", "both", "two", "item"),
    ("two+swap .2", "both", "two+swap .2", "item"),
    ("two+swap .2", "both", "siamese", "item"),
    ("two+swap+cross", "query", "two", "item"),
    ("two+swap+cross", "query", "two+swap", "query"),
]


@dataclass
class Bed:
    """What every model is trained and measured on."""

    folder: Path
    set_name: str = "grounded_test"
    seed: int = 0
    texts: list[str] = field(init=False)
    relevant: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        data = open_dataset(self.folder)
        self.catalogue = data.catalogue
        self.texts = item_texts(self.catalogue, EmbedConfig().fields)
        columns = (self.catalogue.column(name) for name in ("title", "category", "brand"))
        words = [item_words(*parts) for parts in zip(*columns, strict=True)]
        self.streams = {
            "query": LogPairs(data.sft(), self.catalogue.alive, 0, max_positives=8),
            "pseudo": PseudoPairs(words, self.catalogue.alive, 0),
        }
        self.set = next(each for each in data.eval_sets("test") if each.name == self.set_name)
        self.queries = [prompt.query for prompt in self.set.prompts]
        row_of = {item: row for row, item in enumerate(self.catalogue.item_ids)}
        self.relevant = []
        for query in self.set.query_ids:
            grades = self.set.qrels[query]
            best = max(grades.values())
            self.relevant.append(
                np.asarray([row_of[i] for i, g in grades.items() if g == best and i in row_of])
            )
        self.tail = self.set.slices["popularity"] == "tail"
        self.ndcg = objective(self.set, self.catalogue, "ndcg@10")


def word_tower(seed: int, dim: int = 128) -> Any:
    """A random table of word vectors as a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    torch.manual_seed(seed)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=dim)], device="cpu"
    )


def start(kind: str, variant: str, seed: int) -> SentenceEmbedder | TowerEmbedder:
    """The untrained model of a panel."""
    tied = VARIANTS[variant]["towers"] == "tied"
    if kind == "minilm":
        models = [
            load_sentence_transformer(str(minilm_folder()), "cpu") for _ in range(1 if tied else 2)
        ]
    else:
        seeds = [seed * 2, seed * 2 + (kind == "words, own starts")]
        models = [word_tower(each) for each in (seeds[:1] if tied else seeds)]
    return SentenceEmbedder(*models) if tied else TowerEmbedder(*models)


def vectors(model: SentenceEmbedder | TowerEmbedder, bed: Bed) -> dict[str, np.ndarray]:
    """The four views of the bed's queries and items; of one encoder two are the same."""
    if isinstance(model, TowerEmbedder):
        return {
            "q": model.queries.encode(bed.queries),
            "i": model.items.encode(bed.texts),
            "i as q": model.items_as_queries.encode(bed.texts),
            "q as i": model.queries_as_items.encode(bed.queries),
        }
    queries, items = model.encode(bed.queries), model.encode(bed.texts)
    return {"q": queries, "i": items, "i as q": items, "q as i": queries}


def recall(rows: np.ndarray, bed: Bed, k: int) -> np.ndarray:
    """(Q,) share of a query's relevant items among its first k."""
    return np.asarray(
        [
            len(np.intersect1d(r[:k], want)) / len(want)
            for r, want in zip(rows, bed.relevant, strict=True)
        ]
    )


def measure(
    v: dict[str, np.ndarray], bed: Bed, lists: int | None, cell_seeds: int
) -> dict[str, Any]:
    """Figures of one model, and per-query values for the paired tests."""
    scores = v["q"] @ v["i"].T
    exact = np.argsort(-scores, axis=1, kind="stable")[:, : max(K)].astype(np.int32)
    pairs = np.concatenate([np.full(len(rows), q) for q, rows in enumerate(bed.relevant)])
    rows = np.concatenate(bed.relevant)
    per_query: dict[str, np.ndarray] = {f"recall@{k}": recall(exact, bed, k) for k in K}
    ranks = self_ranks(v["i as q"], v["i"])
    figures: dict[str, Any] = {
        "ndcg@10": bed.ndcg(Hits(exact, np.zeros(exact.shape, np.float32))),
        **{name: float(each.mean()) for name, each in per_query.items()},
        "tail recall@100": float(per_query["recall@100"][bed.tail].mean()),
        "gap of queries and items": modality_gap(v["q"], v["i"]),
        "gap of the views of items": modality_gap(v["i as q"], v["i"]),
        "cka of items": linear_cka(v["i as q"], v["i"]),
        "cka of queries": linear_cka(v["q"], v["q as i"]),
        "items that find themselves": float((ranks <= 1).mean()),
        "median self rank": float(np.median(ranks)),
        "cosine f_q(Q), f_q(I+)": float((v["q"][pairs] * v["i as q"][rows]).sum(1).mean()),
        "cosine f_q(Q), f_i(I+)": float((v["q"][pairs] * v["i"][rows]).sum(1).mean()),
    }

    def by_query(values: np.ndarray) -> np.ndarray:
        return np.bincount(pairs, values, len(bed.queries)) / np.bincount(
            pairs, minlength=len(bed.queries)
        )

    for view in VIEWS:
        seen: dict[str, list[np.ndarray]] = {}
        for seed in range(cell_seeds):
            index = DualViewIndex.build(
                v["i"], v["i as q"], coarse_view=view, lists=lists, seed=seed
            )
            for n in NPROBE:
                place = routed(index, v["q"][pairs], rows, n)
                seen.setdefault(f"{view}/routing@{n}", []).append(by_query(place.astype(float)))
                found = index.search(v["q"], max(K), n).rows
                for k in K:
                    seen.setdefault(f"{view}/recall@{k}, {n} lists", []).append(
                        recall(found, bed, k)
                    )
        per_query |= {name: np.mean(values, axis=0) for name, values in seen.items()}
        for n in NPROBE:
            figures[f"{view}/routing@{n}"] = float(per_query[f"{view}/routing@{n}"].mean())
            for k in K:
                found = per_query[f"{view}/recall@{k}, {n} lists"]
                figures[f"{view}/kept@{k}, {n} lists"] = float(
                    found.mean() / per_query[f"recall@{k}"].mean()
                )
                tail = float(found[bed.tail].mean() / per_query[f"recall@{k}"][bed.tail].mean())
                figures[f"{view}/kept@{k}, {n} lists, tail"] = tail
    both = np.concatenate([v["i as q"], v["i"]], axis=1) / np.sqrt(2)
    sides = {
        "item": (v["i"], v["q"]),
        "query": (v["i as q"], v["q"]),
        "query, f_i(Q)": (v["i as q"], v["q as i"]),
    }
    for view, (items, queries) in {
        **sides,
        "both": (both, np.concatenate([v["q"], v["q"]], 1) / np.sqrt(2)),
    }.items():
        tokenizer = RqKmeans((256,), seed=0, precision="fp32").fit(
            SidInputs(items.astype(np.float32))
        )
        first, asked = (
            tokenizer.encode(SidInputs(x.astype(np.float32))).codes[:, 0] for x in (items, queries)
        )
        same = by_query((first[rows] == asked[pairs]).astype(float))
        per_query[f"first code/{view}"], figures[f"first code/{view}"] = same, float(same.mean())
    return {"figures": figures, "per_query": per_query}


def train(kind: str, variant: str, seed: int, bed: Bed) -> tuple[Any, dict[str, float]]:
    """A trained model of a panel, its parameters, seconds and last loss."""
    dense = DenseConfig(
        **{**(MINILM if kind == "minilm" else WORDS), **SHARED, **VARIANTS[variant]}
    )
    model = start(kind, variant, seed)
    facts = {"parameters": sum(p.numel() for p in model.model.parameters())}
    if variant == "untrained":
        return model, facts
    began = time.process_time()
    done = tune(model, dict(bed.streams), bed.texts, dense, seed=seed)
    return model, {**facts, "train CPU s": time.process_time() - began, "last loss": done.loss}


def run(kind: str, seeds: int, bed: Bed, work: Path, cell_seeds: int) -> None:
    """Every variant and seed of a panel into ``work``; what is there already is kept."""
    for seed in range(seeds):
        for variant in PANELS[kind]:
            path = work / f"{kind}.{variant}.{seed}"
            if Path(f"{path}.json").exists() or (seed and variant in ONE_SEED):
                continue
            model, facts = train(kind, variant, seed, bed)
            found = measure(vectors(model, bed), bed, None, cell_seeds)
            np.savez_compressed(f"{path}.npz", **found["per_query"])
            Path(f"{path}.json").write_text(json.dumps({**facts, **found["figures"]}))
            print(
                (
                    f"{kind}, {variant}, seed {seed}: {facts.get('train CPU s', 0):.0f} CPU s of "
                    "training"
                ),
                flush=True,
            )


def read(
    kind: str, variant: str, work: Path
) -> tuple[dict[str, float], dict[str, np.ndarray], int] | None:
    """Means over seeds of figures and of per-query values, and the number of seeds; None where none
    was run.
    """
    files = sorted(work.glob(f"{kind}.{variant}.[0-9]*.json"))
    if not files:
        return None
    figures = [json.loads(file.read_text()) for file in files]
    arrays = [dict(np.load(file.with_suffix(".npz"))) for file in files]
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    return (
        mean,
        {name: np.mean([each[name] for each in arrays], axis=0) for name in arrays[0]},
        len(files),
    )


def compare(kind: str, found: dict[str, Any], bed: Bed) -> list[dict[str, Any]]:
    """Paired tests over queries of the comparisons in :data:`ASKED`, on all queries and on the long
    tail's.
    """
    rows, clusters = [], np.asarray([query_cluster(text) for text in bed.queries])
    for a, a_view, b, b_view in ASKED:
        if a not in found or b not in found:
            continue
        first, second = found[a][1], found[b][1]
        names = ("routing@1", "recall@10, 1 lists", "recall@100, 4 lists")
        measures = [(name, f"{a_view}/{name}", f"{b_view}/{name}") for name in names]
        measures += [("recall@100, exact", "recall@100", "recall@100")] * (a != b)
        for label, name_a, name_b in measures:
            for part, some in (("all", slice(None)), ("tail", bed.tail)):
                test = paired_tests((first[name_a] - second[name_b])[some, None], clusters[some])[0]
                about = {
                    "panel": kind,
                    "a": a,
                    "a cells": a_view,
                    "b": b,
                    "b cells": b_view,
                    "measure": label,
                }
                rows.append(
                    {
                        **about,
                        "queries": part,
                        **{k: round(float(v), 5) for k, v in vars(test).items()},
                    }
                )
    return rows


def scale(n: int, queries: int = 200) -> dict[str, float]:
    """Building and searching at ``n`` catalogue-like items (384-d, one encoder), one thread,
    against exact search.

    Queries are items moved by noise of length .3; asked one by one, as a service is, and all at
    once, as a report does.
    """
    sys.path.append(str(ROOT / "benchmarks"))
    from sid import catalogue_like

    from sidar.baselines import Dense

    items = catalogue_like(n, topics=n // 50, seed=0)
    rng = np.random.default_rng(1)
    asked = items[rng.choice(n, queries, replace=False)]
    noise = rng.standard_normal(asked.shape, dtype=np.float32)
    asked = asked + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    began = time.process_time()
    index = DualViewIndex.build(items)
    figures = {"build CPU s": time.process_time() - began, "lists": float(len(index.centroids))}
    exact = Dense(items, None)
    ways = {
        "index": lambda q: index.search(q, 100, 32),
        "exact": lambda q: exact.search_vectors(q, 100),
    }
    found = {}
    for name, search in ways.items():
        search(asked[:2])
        began = time.process_time()
        found[name] = search(asked).rows
        together = time.process_time()
        for query in asked[:50]:
            search(query[None])
        figures[f"{name}, together, ms a query"] = (together - began) / queries * 1e3
        figures[f"{name}, one by one, ms a query"] = (time.process_time() - together) / 50 * 1e3
    kept = [
        len(np.intersect1d(a, b)) / 100 for a, b in zip(found["index"], found["exact"], strict=True)
    ]
    figures["share of the exact 100 found"] = float(np.mean(kept))
    return {f"scale/{n} items: {name}": value for name, value in figures.items()}


COLUMNS = [
    "ndcg@10",
    "recall@100",
    "tail recall@100",
    "gap of queries and items",
    "gap of the views of items",
    "cka of items",
    "items that find themselves",
]
CELLS = [
    "routing@1",
    "routing@4",
    "kept@10, 1 lists",
    "kept@100, 4 lists",
    "kept@100, 4 lists, tail",
]


def page_table(figures: dict[str, float]) -> str:
    """The table of docs/methods/sci.md, from the figures of ``results/sci.json``."""
    head = [
        "start",
        "towers",
        "nDCG@10",
        "R@100",
        "gap of the views",
        "finds itself",
        "routing@1: item",
        "query",
    ]
    head += ["both", "kept of R@100, 4 lists: item", "query", "both"]
    names = ["ndcg@10", "recall@100", "gap of the views of items", "items that find themselves"]
    names += [f"{view}/{cell}" for cell in ("routing@1", "kept@100, 4 lists") for view in VIEWS]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * len(names)]
    for kind, variants in PANELS.items():
        for variant in (name for name in variants if name not in ONE_SEED):
            cells = [
                f"{figures[f'{kind}/{variant}/{name}']:.3f}".removeprefix("0") for name in names
            ]
            lines.append(f"| {kind} | {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_page(figures: dict[str, float]) -> None:
    """Put :func:`page_table` between the marks of the page."""
    write_between(PAGE, MARKS, page_table(figures))


def report(bed: Bed, work: Path, save: bool) -> None:
    """Print the tables of what was run and write ``results/sci.json`` and the table of
    docs/methods/sci.md.
    """
    figures: dict[str, float] = {}
    tests, seeds = [], {}
    for kind, variants in PANELS.items():
        found = {name: each for name in variants if (each := read(kind, name, work)) is not None}
        if not found:
            continue
        seeds[kind] = {name: each[2] for name, each in found.items()}
        figures |= {
            f"{kind}/{name}/{key}": value
            for name, each in found.items()
            for key, value in each[0].items()
        }
        print_table(
            ["", *COLUMNS],
            [[n, *(e[0][c] for c in COLUMNS)] for n, e in found.items()],
            title=f"\n{kind}",
        )
        rows = [[n, v, *(e[0][f"{v}/{c}"] for c in CELLS)] for n, e in found.items() for v in VIEWS]
        print_table(["", "cells from", *CELLS], rows)
        tests += compare(kind, found, bed)
    if (work / "scale.json").exists():
        figures |= json.loads((work / "scale.json").read_text())
    print_table(
        ["panel", "a", "b", "measure", "queries", "a - b", "low", "high", "p"],
        [
            [
                t["panel"],
                f"{t['a']} ({t['a cells']})",
                f"{t['b']} ({t['b cells']})",
                *(t[x] for x in ("measure", "queries", "effect", "low", "high", "p")),
            ]
            for t in tests
        ],
        title="\npaired tests over queries, means over seeds",
    )
    if save:
        config = {
            "words": WORDS,
            "minilm": MINILM,
            "shared": SHARED,
            "variants": VARIANTS,
            "set": bed.set_name,
            "queries": len(bed.queries),
            "items": len(bed.texts),
            "seeds": seeds,
        }
        path = write_results("sci", config, figures, tests=tests)
        write_page(json.loads(path.read_text())["figures"])
        print(f"written to {path} and {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="data folder of a finished run with grounded queries",
    )
    parser.add_argument("--panels", nargs="*", default=list(PANELS), choices=[*PANELS, "scale"])
    parser.add_argument(
        "--seeds", type=int, default=3, help="of the panels of words; minilm has one"
    )
    parser.add_argument("--cell-seeds", type=int, default=2, help="k-means runs per index")
    parser.add_argument("--scale", type=int, default=200_000)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("sci-work"),
        help="finished models' figures; kept on a rerun",
    )
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    bed = Bed(args.data)
    for panel in args.panels:
        if panel == "scale":
            (args.work / "scale.json").write_text(json.dumps(scale(args.scale)))
        else:
            run(panel, 1 if panel == "minilm" else args.seeds, bed, args.work, args.cell_seeds)
    report(bed, args.work, args.save)


if __name__ == "__main__":
    main()
