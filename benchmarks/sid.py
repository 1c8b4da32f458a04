"""Fitting codebooks: RQ-KMeans of Sidar against ``faiss.Kmeans`` with its defaults, level by level on residuals.

The data are made, and made like a catalogue: topics of Zipf sizes inside departments, on the unit sphere of 384
dimensions, with the spectrum that MiniLM vectors of the embedded sample have (the j-th variance falls as 1 / (j + 3)).
Ours stops by its own rule; the comparison counts only while its error over *all* rows is at most faiss's, which the
script checks at every seed. Time is fit and assignment of all rows, process CPU, one thread, variants interleaved.
"""

from __future__ import annotations

import argparse
from statistics import median

from common import print_table, process_cpu_timer, single_thread, write_results

single_thread()

import faiss
import numpy as np
import torch

from sidar.sid.rqkmeans import RqKmeans
from sidar.types import SidInputs

SIZES = (1024, 512, 256)
DIM = 384


def catalogue_like(n: int, topics: int, seed: int, departments: int = 30) -> np.ndarray:
    """(n, 384) float32 unit vectors: variance 25 % between departments, 35 % between topics, 40 % inside topics."""
    rng = np.random.default_rng(seed)
    spectrum = 1 / (3.0 + np.arange(DIM))
    scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)

    def gaussian(rows: int, share: float) -> np.ndarray:
        return rng.standard_normal((rows, DIM), dtype=np.float32) * scale * np.float32(np.sqrt(share))

    centre = gaussian(departments, 0.25)
    topic = centre[rng.integers(departments, size=topics)] + gaussian(topics, 0.35)
    weight = 1 / (10.0 + np.arange(topics)) ** 0.8
    x = topic[rng.choice(topics, n, p=weight / weight.sum())] + gaussian(n, 0.4)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    x = x @ rotation
    return x / np.linalg.norm(x, axis=1, keepdims=True)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--topics", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3, help="seeds; data and starts differ in each")
    parser.add_argument("--fp32", action="store_true", help="time ours without bf16 as well")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
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
                f"seed {seed}: our error {ours:.5f} is above faiss's {theirs:.5f}; the times do not compare"
            )
    print_table(
        ["variant", "CPU seconds", "error 1 level", "2 levels", "3 levels", "times faster"],
        [
            [name, median(seconds[name]), *np.median(errors[name], axis=0).tolist(),
             median(seconds["faiss.Kmeans"]) / median(seconds[name])]
            for name in variants
        ],
        title=f"{args.n:,} × {DIM}, {'/'.join(map(str, SIZES))}, one thread, medians of {args.repeats} seeds",
    )  # fmt: skip
    figures = {
        "faiss_cpu_over_ours": median(seconds["faiss.Kmeans"]) / median(seconds["sidar"]),
        "faiss_cpu_seconds": median(seconds["faiss.Kmeans"]),
        "ours_cpu_seconds": median(seconds["sidar"]),
        "faiss_error": float(np.median([e[-1] for e in errors["faiss.Kmeans"]])),
        "ours_error": float(np.median([e[-1] for e in errors["sidar"]])),
    }
    if args.fp32:
        figures["faiss_cpu_over_ours_fp32"] = median(seconds["faiss.Kmeans"]) / median(seconds["sidar, fp32"])
    if args.save:
        runs = {"cpu_seconds": seconds, "errors_by_level": errors}
        config = {"n": args.n, "dim": DIM, "topics": args.topics, "codebook_sizes": SIZES, "seeds": args.repeats}
        print(f"written to {write_results('sid', config, figures, runs=runs)}")


if __name__ == "__main__":
    main()
