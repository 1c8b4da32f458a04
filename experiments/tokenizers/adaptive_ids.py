"""What adaptive lengths (SARQ) and a frozen head (ACRQ) do to IDs: claims of sarq.md and acrq.md in
docs/methods.

``python -m experiments.tokenizers.adaptive_ids simulated``: 30,000 Zipf items, 32 codes per level,
popularity independent of the vectors, each rule and control at equal bits; then ACRQ against
training on all items, where popular items are like the others and where the others also speak of
their seller.

``python -m experiments.tokenizers.adaptive_ids sample --run runs/demo``: the same on the embedded
sample with the simulated log's counts. The folder is a run with its data and embed stages (`sidar
demo`, or `sidar run` on the simulator's log). Beside collisions and purity, recall@100 of quantised
dense (the query's vector against what the SIDs keep) by class.

Both write ``results/adaptive_ids.json``; the part that is not run again keeps its figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common import RESULTS, print_table, single_thread, write_results

single_thread()

import numpy as np

from sidar.baselines.quantised import QuantisedDense
from sidar.config import Config
from sidar.data import open_dataset
from sidar.embed import load_embedder, load_items
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.index import PrefixIndex
from sidar.sid import Acrq, RqKmeans, RqVae, Sarq
from sidar.sid.quality import report
from sidar.sid.sizes import extended
from sidar.types import EvalSet, SemanticIds, SidInputs

CLASSES = ("head", "torso", "tail", "cold")
RULES: dict[str, dict[str, Any]] = {
    "fixed": {"lengths": "fixed"},
    "e1": {"rule": "e1"},
    "e2": {"rule": "e2"},
    "e3": {},
    "e3 kappa=2": {"kappa": 2.0},
    "shuffled": {"lengths": "shuffled"},
}
SMALL = {"hidden": [64], "latent": 16, "batch_size": 256}
#: ACRQ's switches, each against the default.
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "no extension": {"extension": 0.0},
    "anchor kl": {"anchor": "kl"},
    "anchor none": {"anchor": "none"},
    "encoder frozen": {"encoder_lr": 0.0},
    "encoder at full rate": {"encoder_lr": 1.0},
    "fully frozen": {"extension": 0.0, "encoder_lr": 0.0},
    "transfer": {"transfer": True},
}


def popularity(counts: np.ndarray) -> np.ndarray:
    """(N,) head, torso, tail or cold, as the report has them (``Priors.popularity``)."""
    order = np.argsort(-counts, kind="stable")
    before = np.empty(len(counts))
    before[order] = (np.cumsum(counts[order]) - counts[order]) / counts.sum()
    labels = np.where(before < 0.5, "head", np.where(before < 0.9, "torso", "tail"))
    return np.where(counts == 0, "cold", labels).astype(object)


def tree(n: int, dim: int, seed: int, noise: float = 0.3) -> SidInputs:
    """Items in a tree of 20 · 10 · 10 clusters with Zipf popularity that knows
    nothing of the tree.
    """
    rng = np.random.default_rng(seed)
    group, vectors = rng.integers(0, 20, n), np.zeros((n, dim))
    for groups, spread in ((20, 1.0), (200, 0.6), (2000, 0.4)):
        vectors += rng.normal(0, spread, (groups, dim))[group]
        group = group * 10 + rng.integers(0, 10, n)
    vectors += rng.normal(0, noise, vectors.shape)
    share = 1 / (1.0 + rng.permutation(n))
    counts = rng.poisson(200_000 * share / share.sum())
    return SidInputs(
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), counts=counts
    )


def sellers(n: int, seed: int, seller: float) -> SidInputs:
    """Zipf items of 240 leaf categories; all but the most popular fifth also speak of one of 40
    sellers.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    top, middle, leaves = (rng.normal(0, s, (k, 16)) for k, s in ((8, 1.0), (48, 0.7), (240, 0.5)))
    leaf, rank = rng.integers(0, 240, n), rng.permutation(n)
    share = 1 / (rank + 1.0)
    counts = rng.poisson(n * 3 * share / share.sum())
    said = rng.normal(0, seller, (40, 16))[rng.integers(0, 40, n)] * (rank >= n / 5)[:, None]
    vectors = (top[leaf // 30] + middle[leaf // 5] + leaves[leaf]) @ axes[:, :16].T + said @ axes[
        :, 16:
    ].T
    vectors += rng.normal(0, 0.3, vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [(str(i // 30), str(i // 5), str(i)) for i in leaf]
    return SidInputs(vectors.astype(np.float32), categories=paths, counts=counts)


def by_class(
    sids: SemanticIds, inputs: SidInputs, classes: np.ndarray
) -> Iterator[tuple[str, float]]:
    """(name, figure) of one table."""
    found = report(sids, categories=inputs.categories, classes=classes, counts=inputs.counts)
    yield "bits", found["code_bits"]["per_item"]
    yield "sids", found["sids"]
    yield "traffic_length", found["traffic_length"]
    for name, each in found["classes"].items():
        for key, short in (
            ("mean_length", "length"),
            ("collision_rate", "collide"),
            ("mean_bucket", "bucket"),
        ):
            yield f"{name}/{short}", each[key]
        if "purity" in each:
            yield f"{name}/purity", each["purity"]


def show(title: str, rows: dict[str, dict[str, float]], keys: tuple[str, ...]) -> None:
    shown = [key for key in keys if any(key in row for row in rows.values())]
    print_table(
        ["", *shown],
        [[name, *(row.get(key, float("nan")) for key in shown)] for name, row in rows.items()],
        title,
    )
    print()


def flat(part: str, rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{part}/{name}/{key}": float(value)
        for name, row in rows.items()
        for key, value in row.items()
    }


def sarq_rows(
    inputs: SidInputs, classes: np.ndarray, sizes: tuple[int, ...], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Each rule over RQ-KMeans at the bits of ``sizes``, with two more levels."""
    rows = {}
    for name, options in RULES.items():
        tokenizer = Sarq(RqKmeans(sizes, seed), len(sizes) - 2, seed, **options).fit(inputs)
        rows[name] = dict(by_class(tokenizer.encode_catalogue(inputs), inputs, classes))
    return rows


def tail_error(tokenizer: Acrq | RqVae, inputs: SidInputs, rows: np.ndarray) -> float:
    restored = tokenizer.reconstruct(tokenizer.encode(inputs).codes[rows])
    return float(np.square(np.asarray(inputs.vectors)[rows] - restored).sum(1).mean())


def kinds_of(inputs: SidInputs, head_from: int) -> np.ndarray:
    """(N,) head, tail (touched) or cold, as ACRQ has them."""
    assert inputs.counts is not None
    return np.where(
        inputs.counts >= head_from, "head", np.where(inputs.counts > 0, "tail", "cold")
    ).astype(object)


def acrq_rows(
    inputs: SidInputs,
    sizes: tuple[int, ...],
    options: dict[str, Any],
    steps: int,
    switches: dict[str, dict[str, Any]],
    seed: int,
) -> dict[str, dict[str, float]]:
    """ACRQ (half the steps for each stage), joint RQ-VAE (all steps) and RQ-KMeans: purity and
    error by class.
    """
    rows, classes = {}, np.empty(0)
    for name, own in switches.items():
        settings = {**options, "steps": steps // 2, "tail_steps": steps // 2, **own}
        mine = Acrq(sizes, seed, options=settings).fit(inputs)
        classes = kinds_of(inputs, mine.head_from_ or 1)
        rows[f"acrq {name}"] = _acrq_row(mine, inputs, classes)
    joint = RqVae(sizes, seed, options={**options, "steps": steps}).fit(inputs)
    rows["joint rqvae"] = _acrq_row(joint, inputs, classes)
    return rows


def _acrq_row(tokenizer: Acrq | RqVae, inputs: SidInputs, classes: np.ndarray) -> dict[str, float]:
    row = dict(by_class(tokenizer.encode_catalogue(inputs), inputs, classes))
    for name in ("head", "tail", "cold"):
        row[f"{name}/error"] = tail_error(tokenizer, inputs, np.flatnonzero(classes == name))
    return row


def acceleration(
    inputs: SidInputs,
    sizes: tuple[int, ...],
    options: dict[str, Any],
    head_steps: int,
    grid: tuple[int, ...],
) -> dict[str, dict[str, float]]:
    """Error of touched items outside the head after n steps: stage T against an RQ-VAE that sees
    nothing but them.
    """
    assert inputs.counts is not None
    rows: dict[str, dict[str, float]] = {}
    for start in ("random", "pca"):
        for steps in grid:
            settings = {**options, "start": start, "steps": head_steps, "tail_steps": steps}
            mine = Acrq(sizes, 0, options=settings).fit(inputs)
            tail = np.flatnonzero((inputs.counts > 0) & (inputs.counts < (mine.head_from_ or 1)))
            alone = SidInputs(np.asarray(inputs.vectors)[tail])
            scratch = RqVae(sizes, 0, options={**options, "start": start, "steps": steps}).fit(
                alone
            )
            rows[f"{start}, {steps} steps"] = {
                "stage T": tail_error(mine, inputs, tail),
                "from scratch": tail_error(scratch, alone, np.arange(len(tail))),
            }
    return rows


def mean_rows(several: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: float(np.mean([each[name][key] for each in several])) for key in row}
        for name, row in several[0].items()
    }


SARQ_KEYS = (
    "bits", "sids", "traffic_length", "head/length", "torso/length", "tail/length", "cold/length",
    "head/collide", "head/bucket", "tail/collide", "tail/bucket", "cold/collide",
)  # fmt: skip
ACRQ_KEYS = (
    "head/error",
    "tail/error",
    "cold/error",
    "head/purity",
    "tail/purity",
    "cold/purity",
    "cold/collide",
)


def simulated(seeds: int) -> tuple[dict[str, Any], dict[str, float]]:
    figures: dict[str, float] = {}
    inputs = tree(30_000, 32, 0)
    assert inputs.counts is not None
    rows = sarq_rows(inputs, popularity(inputs.counts), (32,) * 5)
    show("SARQ, 30,000 simulated items, 32 codes per level, bits of three levels", rows, SARQ_KEYS)
    figures |= flat("simulated/sarq", rows)
    for name, seller in (("alike", 0.0), ("sellers", 1.0)):
        several = [
            acrq_rows(
                sellers(6000, seed, seller),
                (64, 32, 16),
                SMALL,
                600,
                SWITCHES if seed == 0 else {"default": {}},
                seed,
            )
            for seed in range(seeds)
        ]
        if seeds > 1:
            kept = {"acrq default", "joint rqvae"}
            rows = mean_rows([{k: v for k, v in each.items() if k in kept} for each in several])
            show(f"ACRQ, simulated, tail {name}, mean of {seeds} seeds", rows, ACRQ_KEYS)
            figures |= flat(f"simulated/acrq {name}", rows)
        show(f"ACRQ, simulated, tail {name}, seed 0", several[0], ACRQ_KEYS)
        figures |= flat(f"simulated/acrq {name} seed 0", several[0])
    rows = acceleration(sellers(6000, 0, 0.0), (64, 32, 16), SMALL, 600, (0, 50, 100, 200, 400))
    show(
        "tail error after n steps of stage T (head trained 600 steps) and from scratch",
        rows,
        ("stage T", "from scratch"),
    )
    figures |= flat("simulated/steps", rows)
    return {
        "simulated": {
            "sarq": {"items": 30_000, "sizes": [32] * 5},
            "acrq": {"items": 6000, "seeds": seeds},
        }
    }, figures


class Cached:
    """An encoder that embeds each list of queries once."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self._kept = encoder, {}

    def encode(self, texts: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        key = tuple(texts)
        if key not in self._kept:
            self._kept[key] = self._encoder.encode(list(texts), *args, **kwargs)
        return self._kept[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def sample(run: Path, queries: int, steps: int) -> tuple[dict[str, Any], dict[str, float]]:
    data, vectors = open_dataset(run / "data"), np.array(load_items(run / "embed"))
    priors = data.priors()
    classes, figures = priors.popularity(), {}
    paths = [tuple(path or ())[:3] for path in data.catalogue.column("category")]
    inputs = SidInputs(vectors, categories=paths, counts=priors.clicks)
    for sizes in ((512, 256, 128), (128, 64, 32)):
        rows = sarq_rows(inputs, classes, extended(sizes, 5))
        name = "/".join(map(str, sizes))
        show(f"SARQ on the sample at the bits of {name}", rows, SARQ_KEYS)
        figures |= flat(f"sample/sarq {name}", rows)
    sizes = (256, 128, 64)
    rows = acrq_rows(
        inputs, sizes, {}, steps, {n: SWITCHES[n] for n in ("default", "fully frozen")}, 0
    )
    rows |= {
        f"acrq head {share:.0%}": acrq_rows(
            inputs, sizes, {}, steps, {"x": {"head_items": share}}, 0
        )["acrq x"]
        for share in (0.5,)
    }
    show(f"ACRQ on the sample, {'/'.join(map(str, sizes))}, {steps} steps in all", rows, ACRQ_KEYS)
    figures |= flat("sample/acrq", rows)
    head = np.flatnonzero(
        priors.clicks
        >= (Acrq(sizes, options={"steps": 0, "tail_steps": 0}).fit(inputs).head_from_ or 1)
    )
    known = {paths[row] for row in head}
    for name in ("tail", "cold"):
        own = np.flatnonzero(classes == name)
        figures[f"sample/{name} in a leaf category that has a head item"] = float(
            np.mean([paths[row] in known for row in own])
        )
    rows = recall_rows(run, inputs, priors.prior, classes, queries, steps)
    show(
        "recall@100 of quantised dense",
        rows,
        tuple(dict.fromkeys(key for row in rows.values() for key in row)),
    )
    figures |= flat("sample/quantised dense", rows)
    return {
        "sample": {
            "items": len(vectors),
            "clicks": int(priors.clicks.sum()),
            "queries": queries,
            "steps": steps,
        }
    }, figures


def recall_rows(
    run: Path, inputs: SidInputs, prior: np.ndarray, classes: np.ndarray, queries: int, steps: int
) -> dict[str, dict[str, float]]:
    """What each table would allow a model that reads queries as well as the encoder does, by class
    of the answer.
    """
    data = open_dataset(run / "data")
    encoder = Cached(load_embedder(Config().embed, "cpu"))
    sets = [
        s
        for s in data.eval_sets("test")
        if s.name in ("grounded_test", "day8-clicks", "judged_test")
    ]
    sizes, half = (256, 128, 64), {"steps": steps // 2, "tail_steps": steps // 2}
    deep = extended(sizes, 5)
    tokenizers = {
        "rqkmeans": RqKmeans(sizes),
        "sarq over rqkmeans": Sarq(RqKmeans(deep), 3),
        "shuffled lengths": Sarq(RqKmeans(deep), 3, lengths="shuffled"),
        "rqvae": RqVae(sizes, options={"steps": steps}),
        "sarq over rqvae, post hoc": Sarq(RqVae(deep, options={"steps": steps}), 3),
        "sarq over rqvae, progressive": Sarq(
            RqVae(deep, options={"steps": steps, "progressive": True}), 3
        ),
        "acrq": Acrq(sizes, options=half),
        "sarq over acrq (SA2CRQ)": Sarq(Acrq(deep, options={**half, "progressive": True}), 3),
    }
    rows = {}
    for name, tokenizer in tokenizers.items():
        sids = tokenizer.fit(inputs).encode_catalogue(inputs)
        index = PrefixIndex.build(sids, prior)
        restore = getattr(tokenizer, "reconstruct", None)
        if restore is None:
            from sidar.baselines import reconstruct

            vectors = reconstruct(tokenizer.codebooks_, index.table)
        else:
            vectors = restore(index.table)
        system = QuantisedDense(vectors, index.expand_with_source, encoder)
        rows[name] = {
            key: value
            for s in sets
            for key, value in _recall(system, s, data.catalogue, classes, queries)
        }
    return rows


def _recall(
    system: QuantisedDense, eval_set: EvalSet, catalogue: Any, classes: np.ndarray, queries: int
) -> Iterator[tuple[str, float]]:
    ids, prompts = eval_set.query_ids[:queries], eval_set.prompts[:queries]
    truth = Truth.of_catalogue(eval_set.qrels, ids, catalogue, 0.0)
    rows = system.hits(prompts, 100).rows
    yield eval_set.name, float(score_ranking(truth, rows, ["recall@100"])["recall@100"].mean())
    for name in CLASSES:
        own = truth.restrict(classes == name)
        asked = own.n_relevant > 0
        if asked.sum() >= 10:
            yield (
                f"{eval_set.name} {name}",
                float(score_ranking(own, rows, ["recall@100"])["recall@100"][asked].mean()),
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["simulated", "sample"])
    parser.add_argument(
        "--run", type=Path, help="run folder with data and embed stages (part sample)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="training steps on the sample, of both stages together",
    )
    args = parser.parse_args()
    if args.part == "sample" and args.run is None:
        parser.error("part sample needs --run")
    config, figures = (
        simulated(args.seeds)
        if args.part == "simulated"
        else sample(args.run, args.queries, args.steps)
    )
    path = RESULTS / "adaptive_ids.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"config": {}, "figures": {}}
    figures = {
        k: v for k, v in kept["figures"].items() if not k.startswith(f"{args.part}/")
    } | figures
    print(write_results("adaptive_ids", kept["config"] | config, figures))


if __name__ == "__main__":
    main()
