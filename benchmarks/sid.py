"""What Semantic IDs cost: RQ-KMeans against ``faiss.Kmeans``, then every tokenizer's fit, memory
and encoding.

The data are made, and made like a catalogue: topics of Zipf sizes inside departments, on the unit
sphere of 384 dimensions, with the spectrum that MiniLM vectors of the embedded sample have (the
j-th variance falls as 1 / (j + 3)).

``python benchmarks/sid.py faiss``: level by level on residuals. Ours stops by its own rule; the
comparison counts only while its error over *all* rows is at most faiss's, which the script checks
at every seed. Time is fit and assignment of all rows, process CPU, one thread, variants
interleaved. Writes ``results/sid.json``.

``python benchmarks/sid.py fit --n 50000 200000 1000000``: CPU seconds and memory of each
tokenizer's fit with its defaults, categories and queries included, each in a fresh process. Writes
``results/sid_fit.json``, where sizes that are not run again keep their figures.

``python benchmarks/sid.py encode``: vectors a second of every tokenizer at 1024/512/256 (SARQ
writes five codes and cuts), and the time of encoding at 8192/4096/2048 over that of its matrix
products alone. Writes ``results/sid_encode.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from common import (
    RESULTS,
    cost_in_fresh_process,
    interleave,
    print_table,
    process_cpu_timer,
    single_thread,
    write_results,
)

single_thread()

import faiss
import numpy as np
import torch

from sidar.config import SidConfig
from sidar.precision import use_bf16
from sidar.sid import Acrq, CqSid, RqKmeans, RqVae, Sarq
from sidar.sid.lifecycle.refresh import take
from sidar.sid.sizes import extended
from sidar.sid.tokenizer import tokenizer_class
from sidar.types import SidInputs

SIZES = (1024, 512, 256)
LARGE = (8192, 4096, 2048)
DIM = 384
#: Row -> its `sid` section.
TOKENIZERS: dict[str, dict[str, Any]] = {
    "rqkmeans": {"method": "rqkmeans"},
    "rqkmeans +category": {"method": "rqkmeans", "category_first": True},
    "rqvae": {"method": "rqvae"},
    "cqsid": {"method": "cqsid"},
    "acrq": {"method": "acrq"},
    "sarq": {"method": "sarq"},
}


def catalogue_like(n: int, topics: int, seed: int, departments: int = 30) -> np.ndarray:
    """(n, 384) float32 unit vectors: variance 25 % between departments, 35 % between topics, 40 %
    inside topics.
    """
    return labelled(n, topics, seed, departments)[0]


def labelled(
    n: int, topics: int, seed: int, departments: int = 30
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors as :func:`catalogue_like` makes them, each row's topic (n,), and each topic's
    department (topics,).
    """
    rng = np.random.default_rng(seed)
    spectrum = 1 / (3.0 + np.arange(DIM))
    scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)

    def gaussian(rows: int, share: float) -> np.ndarray:
        return (
            rng.standard_normal((rows, DIM), dtype=np.float32) * scale * np.float32(np.sqrt(share))
        )

    centre = gaussian(departments, 0.25)
    of = rng.integers(departments, size=topics)
    topic = centre[of] + gaussian(topics, 0.35)
    weight = 1 / (10.0 + np.arange(topics)) ** 0.8
    label = rng.choice(topics, n, p=weight / weight.sum())
    x = topic[label] + gaussian(n, 0.4)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    x = x @ rotation
    return x / np.linalg.norm(x, axis=1, keepdims=True), label, of


def catalogue_with_log(n: int, topics: int, seed: int = 0) -> SidInputs:
    """As :func:`catalogue_like`, with category paths (30 departments of 20 aisles), clicks, and
    queries.

    A query's vector is an item's with as much noise; it led to that item and two of the same topic.
    One item in ten has no category, and about a third a query.
    """
    x, label, of = labelled(n, topics, seed)
    rng = np.random.default_rng(seed + 1)
    paths = [
        [f"d{of[t]}", f"d{of[t]}/{t % 20}"] if known else []
        for t, known in zip(label, rng.random(n) < 0.9, strict=True)
    ]
    asked = rng.choice(n, n // 8, replace=False)
    queries = x[asked] + rng.standard_normal((len(asked), DIM), dtype=np.float32) / DIM**0.5
    order = np.argsort(label, kind="stable")  # neighbours in this order are of one topic
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    led = np.stack([asked, order[(place[asked] + 1) % n], order[(place[asked] + 2) % n]], axis=1)
    pairs = np.stack([np.repeat(np.arange(len(asked)), 3), led.reshape(-1)], axis=1)
    counts = rng.zipf(1.6, n).clip(0, 10_000) - 1
    return SidInputs(
        x, paths, counts, queries / np.linalg.norm(queries, axis=1, keepdims=True), pairs
    )


def by_faiss(x: np.ndarray, seed: int) -> list[float]:
    """Mean squared residual over all rows after each level."""
    residual, errors = x, []
    for k in SIZES:
        kmeans = faiss.Kmeans(DIM, k, seed=seed)
        kmeans.train(residual)
        _, labels = kmeans.index.search(residual, 1)
        residual = residual - kmeans.centroids[labels[:, 0]]
        errors.append(float(np.square(residual).sum(1).mean()))
    return errors


def by_sidar(x: np.ndarray, seed: int, precision: str) -> list[float]:
    """The same for ours: fit, then encode every row."""
    tokenizer = RqKmeans(SIZES, seed=seed, precision=precision).fit(SidInputs(x))
    codes = tokenizer.encode(SidInputs(x)).codes
    residual, errors = x, []
    for level, book in enumerate(tokenizer.codebooks_):
        residual = residual - book[codes[:, level]]
        errors.append(float(np.square(residual).sum(1).mean()))
    return errors


def fits(name: str, n: int, topics: int) -> Callable[[], None]:
    """The step that is measured: the fit of one tokenizer, whose inputs are there already."""
    torch.set_num_threads(1)
    inputs = catalogue_with_log(n, topics)
    config = SidConfig.model_validate({**TOKENIZERS[name], "codebook_sizes": list(SIZES)})
    tokenizer = tokenizer_class(config.method).from_config(config, SIZES, 0, "cpu")
    # loads libraries
    tokenizer.fit(SidInputs(inputs.vectors[:512], inputs.categories[:512], inputs.counts[:512]))
    tokenizer = tokenizer_class(config.method).from_config(config, SIZES, 0, "cpu")
    return lambda: tokenizer.fit(inputs)


def fit(args: argparse.Namespace) -> None:
    """CPU seconds and memory of every tokenizer's fit."""
    path = RESULTS / "sid_fit.json"
    figures = json.loads(path.read_text())["figures"] if path.is_file() else {}
    rows = []
    for n in args.n:
        for name in args.rows:
            started = time.monotonic()
            peak, seconds = cost_in_fresh_process(__file__, "fits", name, n, args.topics)
            figures |= {f"{name}, {n}: CPU seconds": seconds, f"{name}, {n}: MiB": peak / 2**20}
            rows.append(
                [name, n, seconds, peak / 2**20, n * DIM * 4 / 2**20, time.monotonic() - started]
            )
            print(rows[-1], flush=True)
    header = [
        "tokenizer",
        "vectors",
        "CPU seconds",
        "MiB over inputs",
        "MiB of the inputs",
        "wall s of the process",
    ]
    print_table(header, rows, title=f"fit, {'/'.join(map(str, SIZES))}, one thread, once")
    if args.save:
        config = {
            "dim": DIM,
            "topics": args.topics,
            "codebook_sizes": SIZES,
            "tokenizers": TOKENIZERS,
        }
        print(f"written to {write_results('sid_fit', config, figures)}")


def quickly(name: str, sizes: tuple[int, ...], inputs: SidInputs) -> Any:
    """A tokenizer fitted in few passes: its codebooks are of the data, and encoding costs what it
    always does.
    """
    few, none = {"iterations": 2, "sample": 16}, {"steps": 0, "init_sample": 16}
    made = {
        "rqkmeans": lambda: RqKmeans(sizes, **few),
        "rqkmeans +category": lambda: RqKmeans(sizes, category_first=True, **few),
        "rqvae": lambda: RqVae(sizes, options=none),
        "cqsid": lambda: CqSid(sizes, options={**none, "category": False, "contrast": False}),
        "acrq": lambda: Acrq(sizes, options={**none, "tail_steps": 0}),
        "sarq": lambda: Sarq(RqKmeans(extended(sizes, len(sizes) + 2), **few), len(sizes)),
    }
    return made[name]().fit(inputs)


def products(x: torch.Tensor, sizes: tuple[int, ...], rows: int) -> Callable[[], None]:
    """The matrix products of encoding alone, in the precision that encoding uses."""
    kind = torch.bfloat16 if use_bf16("cpu") else torch.float32
    books = [torch.randn(k, DIM).to(kind) for k in sizes]
    low = x.to(kind)

    def run() -> None:
        for book in books:
            for start in range(0, len(low), rows):
                torch.nn.functional.linear(low[start : start + rows], book)

    return run


def encode(args: argparse.Namespace) -> None:
    """Vectors a second, and the k-means family's time over that of its matrix products."""
    from sidar.sid.codebooks.kmeans import CHUNK

    made = catalogue_with_log(args.vectors, args.topics)
    x = made.vectors
    inputs = SidInputs(x, made.categories, made.counts)
    small = {
        name: quickly(name, SIZES, take(inputs, np.arange(min(len(x), 32768))))
        for name in TOKENIZERS
    }
    seconds = interleave({k: lambda t=t: t.encode(inputs) for k, t in small.items()}, args.repeats)
    figures = {f"{name}: vectors a second": len(x) / each for name, each in seconds.items()}
    large = quickly("rqkmeans", LARGE, inputs)
    part = x[: len(x) // 8]
    pair = {
        "encode": lambda: large.encode(SidInputs(part)),
        "products": products(torch.from_numpy(part), LARGE, CHUNK),
    }
    seconds = interleave(pair, args.repeats)
    figures["encode_over_gemm_floor"] = seconds["encode"] / seconds["products"]
    print_table(
        ["figure", "value"],
        [[k, v] for k, v in figures.items()],
        title=f"{len(x):,} vectors, one thread",
    )
    if args.save:
        config = {"vectors": len(x), "sizes": SIZES, "large": LARGE, "repeats": args.repeats}
        print(f"written to {write_results('sid_encode', config, figures)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("faiss", "fit", "encode"), default="faiss")
    parser.add_argument(
        "--n", type=int, nargs="+", help="vectors (default: 200000 for faiss, 50000 for fit)"
    )
    parser.add_argument("--rows", nargs="*", default=list(TOKENIZERS), help="fit: which tokenizers")
    parser.add_argument("--vectors", type=int, default=131_072, help="encode: how many")
    parser.add_argument("--topics", type=int, default=4000)
    parser.add_argument(
        "--repeats", type=int, default=3, help="seeds; data and starts differ in each"
    )
    parser.add_argument("--fp32", action="store_true", help="faiss: time ours without bf16 as well")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "faiss":
        args.n = (args.n or [200_000])[0]
        against_faiss(args)
    elif args.what == "fit":
        args.n = args.n or [50_000]
        fit(args)
    else:
        encode(args)


def against_faiss(args: argparse.Namespace) -> None:
    """Fit and assign level by level, ours and faiss's in turn."""
    faiss.omp_set_num_threads(1)

    variants = {
        "faiss.Kmeans": lambda x, seed: by_faiss(x, 1234 + seed),
        "sidar": lambda x, seed: by_sidar(x, seed, "auto"),
    }
    if args.fp32:
        variants["sidar, fp32"] = lambda x, seed: by_sidar(x, seed, "fp32")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    errors: dict[str, list[list[float]]] = {name: [] for name in variants}
    for seed in range(args.repeats):
        x = catalogue_like(args.n, args.topics, seed)
        for name, run in variants.items():
            with process_cpu_timer() as taken:
                errors[name].append(run(x, seed))
            seconds[name].append(taken[0])
    for seed in range(args.repeats):
        ours, theirs = errors["sidar"][seed][-1], errors["faiss.Kmeans"][seed][-1]
        if ours > theirs:
            raise SystemExit(
                f"seed {seed}: our error {ours:.5f} is above faiss's {theirs:.5f}; the times do "
                "not compare"
            )
    print_table(
        ["variant", "CPU seconds", "error 1 level", "2 levels", "3 levels", "times faster"],
        [
            [name, median(seconds[name]), *np.median(errors[name], axis=0).tolist(),
             median(seconds["faiss.Kmeans"]) / median(seconds[name])]
            for name in variants
        ],
        title=(f"{args.n:,} × {DIM}, {'/'.join(map(str, SIZES))}, one thread, medians of "
               f"{args.repeats} seeds"),
    )  # fmt: skip
    figures = {
        "faiss_cpu_over_ours": median(seconds["faiss.Kmeans"]) / median(seconds["sidar"]),
        "faiss_cpu_seconds": median(seconds["faiss.Kmeans"]),
        "ours_cpu_seconds": median(seconds["sidar"]),
        "faiss_error": float(np.median([e[-1] for e in errors["faiss.Kmeans"]])),
        "ours_error": float(np.median([e[-1] for e in errors["sidar"]])),
    }
    if args.fp32:
        figures["faiss_cpu_over_ours_fp32"] = median(seconds["faiss.Kmeans"]) / median(
            seconds["sidar, fp32"]
        )
    if args.save:
        runs = {"cpu_seconds": seconds, "errors_by_level": errors}
        config = {
            "n": args.n,
            "dim": DIM,
            "topics": args.topics,
            "codebook_sizes": SIZES,
            "seeds": args.repeats,
        }
        print(f"written to {write_results('sid', config, figures, runs=runs)}")


if __name__ == "__main__":
    main()
