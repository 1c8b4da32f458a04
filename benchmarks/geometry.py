"""What `lm.geometry` costs: CPU seconds of an SFT step and of a beam search, against the default's,
one thread.

    python benchmarks/geometry.py  # both beds; first about six minutes more, for the 50,000
    python benchmarks/geometry.py --only 1m

Beds. `50k`: 50,000 products grown from the sample and a simulated log (docs/grown.md), codes
512/256/128 from MiniLM's vectors, batches as in experiments/start/grown.py; kept in --work. `1m`: a
million distinct random SIDs at the automatic sizes (first codes of log-normal popularity, below
each of them a share of the later codes; random centroids, smaller by level), prompts of random
words and as many tokens and answers as the grown bed's, query vectors near answers: nothing is
learnt there. The decoder is the same, 4 layers of 384.

A step is forward and backward of two passes of 64 prompts, and AdamW. Steps of the variants are
taken in turn on the same batches; a step's time is its median over turns, and their mean is kept.
At 50k a step also has its share of what prepares 16 batches (prompts, answers; with the geometry
the encoder reads the pseudo-queries).

Variants: `default`, `geometry` as configured, and at 1m both `exact` and `two stages`. Also
printed: how near the two stages are to the exact prior at step 0 of the 50k bed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
import common

common.single_thread()

import numpy as np
import torch

from experiments.start import grown
from sidar import pipeline
from sidar.config import Config, LmConfig
from sidar.decode import Trie, beam_search
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, pack
from sidar.lm.prompts import Encoded
from sidar.lm.scorer import LmScorer
from sidar.sid import load_tokenizer
from sidar.sid.sizes import auto_codebook_sizes
from sidar.train.examples import Example, LogStream
from sidar.train.inputs import Inputs
from sidar.train.order import WINDOW
from sidar.train.sft import SftTask, start_model
from sidar.train.vectors import attach
from sidar.types import SemanticIds

PAGE = common.ROOT / "docs" / "grown.md"
MARKS = ("<!-- geometry table -->\n", "<!-- /geometry table -->")
#: Row of the page → suffix of its figures.
SHOWN = {
    "50,000 grown products": "50k",
    "1,000,000 SIDs, two stages": "1m",
    "1,000,000 SIDs, exact": "1m_exact",
}
DIM = 384
BEAM, QUERIES = 128, 16
Variant = tuple[SidLM, Callable[[int], list[Example]]]


class Bed:
    """Variants of one model over one index: ``batches[name](step)`` are the examples of a step."""

    def __init__(self, index: PrefixIndex) -> None:
        self.index, self.trie = index, Trie(index, torch.device("cpu"))
        self.models: dict[str, SidLM] = {}
        self.tasks: dict[str, SftTask] = {}
        self.batches: dict[str, list[list[Example]]] = {}
        self.preparation: dict[str, float] = {}

    def step(self, name: str, number: int, cfg: Config) -> Callable[[], None]:
        """One optimizer step on batch ``number``; the optimizer is kept with the model."""
        model = self.models[name]
        if not hasattr(model, "optimizer"):
            model.optimizer = torch.optim.AdamW(model.parameter_groups(cfg.sft), fused=True)
        batch = self.batches[name][number]
        size = len(batch) // cfg.sft.accumulate

        def run() -> None:
            model.train()
            model.optimizer.zero_grad(set_to_none=True)
            for part in range(cfg.sft.accumulate):
                rows = batch[part * size : (part + 1) * size]
                packed = pack([x.tokens for x in rows], [x.candidates for x in rows], model.vocab)
                outcome = self.tasks[name].forward(packed, torch.zeros(len(rows), dtype=torch.bool))
                (outcome.loss / cfg.sft.accumulate).backward()
            model.optimizer.step()

        return run

    def search(self, name: str, prompts: Sequence[Any]) -> Callable[[], Any]:
        scorer = LmScorer(self.models[name].eval())
        return lambda: beam_search(scorer, prompts, self.trie, BEAM)


def configured(args: argparse.Namespace) -> Config:
    given = argparse.Namespace(train_threads=1, threads=1, sizes=args.sizes)
    return Config.model_validate({**grown.settings(args.work.resolve(), given), "seed": 0})


def with_lm(cfg: Config, **lm: Any) -> Config:
    return cfg.model_copy(update={"lm": cfg.lm.model_copy(update=lm)})


def task_of(cfg: Config, model: SidLM, streams: dict[str, Any]) -> SftTask:
    shares = dict(cfg.sft.mixture.items())
    return SftTask(
        model,
        streams,
        shares,
        None,
        positives=cfg.sft.positives,
        batch_size=cfg.sft.batch_size,
        seed=0,
    )


def grown_bed(cfg: Config, args: argparse.Namespace) -> Bed:
    """The grown catalogue; batches of both variants have the same rows."""
    grown.make_inputs(args.work.resolve() / "inputs", args.items, "full")
    pipeline.run(cfg, only="sid")
    run = cfg.run_dir
    inputs = Inputs.open(run / "data", run / "sid")
    bed = Bed(inputs.index)
    for name in ("default", "geometry"):
        now = with_lm(cfg, geometry=name == "geometry")
        model = start_model(now, inputs, run / "sid")
        vectors = attach(model, now, inputs.data, inputs.index, run / "embed", "cpu")
        positives = cfg.sft.max_positives
        streams = {
            "item": inputs.items(cfg.embed.fields, model.prompts, vectors),
            "pseudo": inputs.pseudo(model.prompts, 0, positives),
            "query": LogStream(
                inputs.data.sft(), inputs.sids, model.prompts, max_positives=positives
            ),
        }
        task = task_of(cfg, model, streams)
        taken = []
        for pool in range(4):  # the first is for warming up; WINDOW batches each, prepared together
            with common.process_cpu_timer() as seconds:
                task.batch(pool * WINDOW)
            taken.append(seconds[0])
        bed.preparation[name] = statistics.median(taken[1:]) / WINDOW
        bed.models[name], bed.tasks[name] = model, task
        bed.batches[name] = [task.batch(step) for step in range(args.steps)]
    return bed


def random_sids(n: int, sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    """(n, 3) distinct codes: first codes of log-normal popularity, below each a share of the later
    codes.
    """
    rng = np.random.default_rng(seed)
    popularity = rng.lognormal(sigma=0.8, size=sizes[0])
    codes = np.empty((0, len(sizes)), np.int64)
    while len(codes) < n:
        first = rng.choice(sizes[0], n, p=popularity / popularity.sum())
        later = [(first * 7919 + rng.geometric(min(0.5, 8 / size), n)) % size for size in sizes[1:]]
        codes = np.unique(np.concatenate([codes, np.stack([first, *later], 1)]), axis=0)
    return codes[np.sort(rng.permutation(len(codes))[:n])]


def random_bed(cfg: Config, args: argparse.Namespace, shapes: list[list[tuple[int, int]]]) -> Bed:
    """Random SIDs; ``shapes``: per batch the tokens of each prompt and its number of answers."""
    sizes = auto_codebook_sizes(args.sids)
    codes = random_sids(args.sids, sizes)
    table = SemanticIds(
        codes.astype(np.int32), np.full(len(codes), len(sizes), np.int32), tuple(sizes)
    )
    index = PrefixIndex.build(table)
    rng = np.random.default_rng(1)
    books = [
        rng.normal(size=(size, DIM)).astype(np.float32) * scale / DIM**0.5
        for size, scale in zip(sizes, (0.7, 0.5, 0.4), strict=True)
    ]
    bed = Bed(index)
    for name, lm in {
        "default": {},
        "exact": {"geometry": True, "geometry_exact": 0},
        "two stages": {"geometry": True, "geometry_exact": 1},
    }.items():
        model = SidLM.build(with_lm(cfg, **lm).lm, table, books, seed=0)
        bed.models[name] = model
        bed.tasks[name] = task_of(cfg, model, {"item": range(cfg.sft.batch_size)})
    for shape in shapes:
        batch = [random_example(rng, codes, books, *one, bed.models["default"]) for one in shape]
        for name in bed.models:
            bed.batches.setdefault(name, []).append(batch)
    return bed


def random_example(
    rng: np.random.Generator,
    codes: np.ndarray,
    books: list[np.ndarray],
    tokens: int,
    answers: int,
    model: SidLM,
) -> Example:
    """Answers are neighbours in the sorted table; the query's vector is the first's and noise."""
    at = min(int(rng.integers(len(codes))), len(codes) - answers)
    vector = sum(book[code] for book, code in zip(books, codes[at], strict=True))
    vector = vector / np.linalg.norm(vector) + rng.normal(size=DIM) / DIM**0.5
    text = Encoded(rng.integers(1000, min(30_000, model.text_vocab), tokens).tolist())
    text.vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Example(
        text, [Candidate(tuple(map(int, row)), True, 1) for row in codes[at : at + answers]]
    )


def measured(bed: Bed, cfg: Config, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds by variant: a step, a search of 16 prompts and of one."""
    steps: dict[str, list[float]] = {name: [] for name in bed.models}
    for number in range(args.steps):
        turn = {name: bed.step(name, number, cfg) for name in bed.models}
        for name, seconds in common.interleave(turn, args.repeats).items():
            steps[name].append(seconds)
    found = {
        name: {"step": statistics.mean(taken) + bed.preparation.get(name, 0.0)}
        for name, taken in steps.items()
    }
    for key, n in (("search", QUERIES), ("search_one", 1)):
        turn = {
            name: bed.search(name, [x.tokens for x in bed.batches[name][0][:n]])
            for name in bed.models
        }
        for name, seconds in common.interleave(turn, max(5, args.repeats), warmup=2).items():
            found[name][key] = seconds
    return found


@torch.no_grad()
def nearness(bed: Bed) -> dict[str, float]:
    """The two-stage prior of the first code against the exact one, at step 0, for the prompts of
    the first batches.
    """
    model = SidLM.build(LmConfig(geometry=True, layers=1), bed.index.codebook_sizes, bed.books)
    model.use(bed.index)
    vectors = torch.from_numpy(
        np.stack([x.tokens.vector for batch in bed.batches["geometry"] for x in batch])
    )
    geometry = model.geometry
    assert geometry is not None
    exact = geometry.prior(vectors).first.softmax(0)
    found = {}
    for top in (8, 32, 128):
        geometry.exact, geometry.top = 1, top
        staged = geometry.prior(vectors).first.softmax(0)
        found[f"two_stage_top_{top}_total_variation_50k"] = float(
            (exact - staged).abs().sum(0).mean() / 2
        )
        best = exact.argmax(0)
        share = staged.topk(top, 0).indices.eq(best).any(0).float().mean()
        found[f"two_stage_top_{top}_holds_best_first_code_50k"] = float(share)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sidar-grown")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--sizes", default="512/256/128")
    parser.add_argument("--sids", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=6, help="batches")
    parser.add_argument("--repeats", type=int, default=3, help="turns per batch")
    parser.add_argument("--only", choices=("50k", "1m"))
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = configured(args)
    bed = grown_bed(cfg, args)
    shapes = [
        [(len(x.tokens), len(x.candidates)) for x in batch] for batch in bed.batches["default"]
    ]
    figures: dict[str, float] = {}
    rows = []
    if args.only != "1m":
        bed.books = load_tokenizer(cfg.run_dir / "sid").codebooks_
        figures |= nearness(bed)
        found = measured(bed, cfg, args)
        figures |= ratios(found, "50k", "geometry")
        figures["seconds_of_preparing_a_step_geometry_50k"] = bed.preparation["geometry"]
        rows += table_rows("50k", found)
    del bed
    if args.only != "50k":
        bed = random_bed(cfg, args, shapes[: max(2, args.steps // 2)])
        args.steps = len(bed.batches["default"])
        found = measured(bed, cfg, args)
        configured_as = "two stages" if len(bed.index) > cfg.lm.geometry_exact else "exact"
        figures |= ratios(found, "1m", configured_as)
        figures |= {
            f"{key}_exact": value
            for key, value in ratios(found, "1m", "exact").items()
            if "over" in key
        }
        rows += table_rows("1m", found)
    header = (
        "bed",
        "variant",
        "step s",
        "over default",
        f"search of {QUERIES} s",
        "over",
        "search of one s",
        "over",
    )
    common.print_table(header, rows, f"beam {BEAM}, one thread, process CPU time")
    for name, value in figures.items():
        print(f"{name:56} {value:.4f}")
    if args.save:
        config = {k: v for k, v in vars(args).items() if k not in ("work", "save")}
        config |= {"lm": cfg.lm.model_dump(mode="json"), "batch": cfg.sft.batch_size, "beam": BEAM}
        path = common.write_results("geometry", config, figures)
        if not args.only:
            common.write_between(PAGE, MARKS, page_table(figures))
        print(path)


def ratios(found: dict[str, dict[str, float]], bed: str, name: str) -> dict[str, float]:
    mine, base = found[name], found["default"]
    return {
        f"seconds_per_step_geometry_over_default_{bed}": mine["step"] / base["step"],
        f"beam_128_geometry_over_default_{bed}": mine["search"] / base["search"],
        f"beam_128_of_one_prompt_geometry_over_default_{bed}": mine["search_one"]
        / base["search_one"],
        f"seconds_per_step_default_{bed}": base["step"],
        f"seconds_per_step_geometry_{bed}": mine["step"],
    }


def page_table(figures: Mapping[str, float]) -> str:
    """The table of docs/grown.md."""
    lines = [
        "| over the default | SFT step | search, 16 prompts, beam 128 | search, one prompt |",
        "|---|---:|---:|---:|",
    ]
    for name, bed in SHOWN.items():
        keys = ("seconds_per_step", "beam_128", "beam_128_of_one_prompt")
        cells = [f"{figures[f'{key}_geometry_over_default_{bed}']:.2f}" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    apart = " · ".join(
        f"{figures[f'two_stage_top_{top}_total_variation_50k']:.4f} with {top}"
        for top in (8, 32, 128)
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Total variation between the two stages' first code and the exact one: {apart}.",
            "",
        ]
    )


def table_rows(bed: str, found: dict[str, dict[str, float]]) -> list[list[Any]]:
    base = found["default"]
    rows = []
    for name, taken in found.items():
        cells = [
            cell
            for key in ("step", "search", "search_one")
            for cell in (taken[key], taken[key] / base[key])
        ]
        rows.append([bed, name, *cells])
    return rows


if __name__ == "__main__":
    main()
