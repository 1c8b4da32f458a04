"""Tokenizers at equal codebook sizes, judged by their IDs alone: no language model, so minutes
instead of hours.

RQ-KMeans, RQ-KMeans with category-guided first codes, RQ-VAE, CQ-SID with its ablations and random
IDs are fitted to the embedded sample (or to ``--run``, a run folder with ``data`` and ``embed``)
with the queries of training days. Printed: items per SID, collisions, the largest SID, purity of
first codes against the category level that CQ-SID uses, how often two items that one *held-out*
query led to share their first one and two codes (validation and test days, query texts that no
training day has; and the simulator's grounded truth), and R@100 of quantised dense on held-out
queries.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from experiments.common import print_table, single_thread, write_results

single_thread()

import numpy as np
import torch

from sidar.baselines.quantised import QuantisedDense
from sidar.config import Config, EmbedConfig, SidConfig, load_config
from sidar.data import Dataset, open_dataset
from sidar.embed import load_embedder, load_items
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.scorer import relevance_threshold
from sidar.index import PrefixIndex
from sidar.sid.inputs import query_inputs
from sidar.sid.quality import purity, report
from sidar.sid.tokenizer import tokenizer_class
from sidar.types import SemanticIds, SidInputs

SIZES = (512, 256, 128)
#: Row -> the method and what of its section differs from the defaults.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "rqkmeans": ("rqkmeans", {}),
    "rqkmeans +category": ("rqkmeans", {"category_first": True}),
    "rqvae": ("rqvae", {}),
    "cqsid": ("cqsid", {}),
    "cqsid -category": ("cqsid", {"cqsid": {"category": False}}),
    "cqsid -QI": ("cqsid", {"cqsid": {"contrast": False}}),
    "cqsid -category -QI": ("cqsid", {"cqsid": {"category": False, "contrast": False}}),
}
SETS = ("judged_test", "grounded_test", "day8-clicks")


def sample_run(folder: Path) -> Path:
    """A run of the simulator's full traffic over the embedded sample, up to its vectors."""
    import yaml

    from sidar import pipeline
    from sidar.pipeline.demo import merge, settings, write_inputs

    write_inputs(folder / "inputs-all", everything=True, tiny=False)
    told = merge(settings(everything=True, tiny=False), {"name": "sample"})
    (folder / "sidar.yaml").write_text(yaml.safe_dump(told))
    cfg = load_config(folder / "sidar.yaml")
    pipeline.run(cfg, only="embed")
    return cfg.run_dir


def sharing_pairs(data: Dataset, most: int, seed: int) -> dict[str, np.ndarray]:
    """(P, 2) rows that one held-out query led to: clicked on later days, or both exact by the
    grounded truth.
    """
    trained = {" ".join(q.casefold().split()) for q in data.sft().column("query").to_pylist()}
    by_query: dict[str, set[int]] = {}
    for split in ("valid", "test"):
        for request in data.requests(split):
            text = " ".join(request.prompt.query.casefold().split())
            if text and text not in trained:
                clicked = [
                    row
                    for row, action in zip(request.rows, request.actions, strict=True)
                    if action > 0
                ]
                by_query.setdefault(text, set()).update(clicked)
    row_of = {item: row for row, item in enumerate(data.catalogue.item_ids)}
    truth = next(each for each in data.eval_sets() if each.name == "grounded_test").qrels
    exact = [
        [row_of[item] for item, grade in judged.items() if grade >= 1] for judged in truth.values()
    ]
    rng = np.random.default_rng(seed)
    found = {}
    for name, groups in (("clicked", list(by_query.values())), ("grounded", exact)):
        pairs = np.array([p for group in groups for p in combinations(sorted(group), 2)]).reshape(
            -1, 2
        )
        found[name] = pairs[rng.permutation(len(pairs))[:most]]
    return found


def shared(codes: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Shares of pairs with the same first code, and the same first two."""
    same = codes[pairs[:, 0]] == codes[pairs[:, 1]]
    return float(same[:, 0].mean()), float(same[:, :2].all(axis=1).mean())


class Known:
    """Query vectors that are encoded once for all tokenizers."""

    def __init__(self, texts: Sequence[str], embedder: Any) -> None:
        texts = list(dict.fromkeys(texts))
        self.vectors = dict(zip(texts, embedder.encode(texts), strict=True))

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        return np.stack([self.vectors[text] for text in texts])


def category_purity(sids: SemanticIds, categories: Sequence[Sequence[str]], depth: int) -> float:
    """Share of items whose category (cut at ``depth``) is the commonest under their first code."""
    first = np.unique(sids.codes[:, :1], axis=0, return_inverse=True)[1].reshape(-1)
    cut = [tuple(path[:depth]) for path in categories]
    rows = purity([first], [("/".join(path),) if path else () for path in cut])
    return rows[0]["purity"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, help="run folder with data and embed; default: made from the sample"
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--set", nargs="*", default=[], help="overrides for every trained row, e.g. steps=400"
    )
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, args.run or sample_run(Path(folder)))


def measure(args: argparse.Namespace, run: Path) -> None:
    data = open_dataset(run / "data")
    vectors = np.asarray(load_items(run / "embed"))
    categories = [path or () for path in data.catalogue.column("category")]
    own = EmbedConfig()
    rows = np.arange(len(vectors))
    most = Config().sid.cqsid.max_queries
    query_vectors, pairs = query_inputs(data.sft(), rows, most, own, run / "embed", "item", "cpu")
    print(f"{len(vectors):,} items, {len(query_vectors):,} training queries, {len(pairs):,} pairs")
    inputs = SidInputs(vectors, categories, data.priors().clicks, query_vectors, pairs)
    sets = [each for each in data.eval_sets() if each.name in SETS]
    embedder = Known([p.query for each in sets for p in each.prompts], load_embedder(own, "cpu"))
    truths = {
        each.name: Truth.of_catalogue(
            each.qrels, each.query_ids, data.catalogue, relevance_threshold(each)
        )
        for each in sets
    }
    sharing = sharing_pairs(data, 200_000, 0)
    prior = data.priors().prior
    told: dict[str, Any] = {}
    for override in args.set:
        key, _, value = override.partition("=")
        told[key] = value
    table, records = [], []
    for name in args.rows:
        for seed in range(args.seeds):
            method, section = ROWS[name]
            section = dict(section)
            if method in ("rqvae", "cqsid"):
                section[method] = {**section.get(method, {}), **told}
            config = SidConfig.model_validate(
                {"method": method, "codebook_sizes": SIZES, **section}
            )
            started = time.process_time()
            tokenizer = tokenizer_class(method).from_config(config, SIZES, seed, "cpu").fit(inputs)
            sids = tokenizer.encode_catalogue(inputs)
            seconds = time.process_time() - started
            quality = report(sids, vectors=vectors, tokenizer=tokenizer)
            index = PrefixIndex.build(sids, prior)
            clusters = tokenizer.reconstruct(index.table)
            dense = QuantisedDense(clusters, index.expand_with_source, embedder)
            record = {
                "row": name,
                "seed": seed,
                "cpu_seconds": seconds,
                "sids": quality["sids"],
                "collision": quality["collision_rate"],
                "largest": quality["largest_sid"],
                "used_1": quality["levels"][0]["used"],
                "perplexity": [level["perplexity"] for level in quality["levels"]],
                "error": float(np.square(vectors - by_item(index, clusters)).sum(1).mean()),
                "purity": category_purity(sids, categories, 2),
                **{f"shared_{k}": shared(sids.codes, p) for k, p in sharing.items()},
                **{
                    f"r100_{each.name}": float(
                        score_ranking(
                            truths[each.name], dense.hits(each.prompts, 100).rows, ["recall@100"]
                        )["recall@100"].mean()
                    )
                    for each in sets
                },
            }
            records.append(record)
            print(
                {k: v for k, v in record.items() if k in ("row", "seed", "cpu_seconds", "purity")},
                flush=True,
            )
        mine = [record for record in records if record["row"] == name]
        mean = {
            k: np.mean([r[k] for r in mine], axis=0) for k in mine[0] if k not in ("row", "seed")
        }
        table.append(
            [
                name,
                *(
                    float(mean[k])
                    for k in (
                        "cpu_seconds",
                        "sids",
                        "collision",
                        "largest",
                        "used_1",
                        "error",
                        "purity",
                    )
                ),
                *(float(x) for k in sharing for x in mean[f"shared_{k}"]),
                *(float(mean[f"r100_{each}"]) for each in SETS),
            ]
        )
    header = ["row", "CPU s", "SIDs", "collide", "largest", "codes 1", "error", "purity"]
    header += ["clicked 1", "2", "grounded 1", "2", *(f"R@100 {each}" for each in SETS)]
    print_table(header, table, title=f"{'/'.join(map(str, SIZES))}, means of {args.seeds} seeds")
    if args.save:
        figures = {
            f"{line[0]}: {column}": line[i + 1]
            for line in table
            for i, column in enumerate(_columns(header))
        }
        config = {
            "sizes": SIZES,
            "seeds": args.seeds,
            "set": told,
            "items": len(vectors),
            "pairs": len(pairs),
        }
        print(f"written to {write_results('sid_quality', config, figures, runs=records)}")


def by_item(index: PrefixIndex, restored: np.ndarray) -> np.ndarray:
    """(N, D) restored vector of each catalogue row."""
    found = np.zeros((len(index.rows), restored.shape[1]), np.float32)
    found[index.rows] = np.repeat(restored, np.diff(index.rows_start), axis=0)
    return found


def _columns(header: list[str]) -> list[str]:
    """Column names that tell the two "2" apart."""
    names = header[1:]
    return [f"{names[i - 1].split()[0]} 2" if name == "2" else name for i, name in enumerate(names)]


if __name__ == "__main__":
    main()
