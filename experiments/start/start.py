"""Which start is better by the answer that is served, at equal CPU time: `lm.geometry` true or
false, by catalogue.

    python -m experiments.start.start        # 210 CPU minutes for three seeds; goes on
    python -m experiments.start.start --only grown,geometry,0    # one cell
    python -m experiments.start.start --minutes-scale .02 --no-save   # a try

Beds: `demo`, the sample with its judged queries (real judgments), grounded queries and day-8 sets
(SIMULATED); `grown`, 50,000 products grown from it (SIMULATED, grown.py); `sequence`,
Amazon "Scientific", the next item of a user's history, leave-one-out (tokenizers/published_sids.py,
our automatic SIDs; its prompts have no query text, so that the sentence vector is that of an empty
text). One thread.

Both starts have the same rows, batches and rates; each trains for `budget / CPU seconds of a step
of that start` steps, measured once per bed and start over whole pools of batches, what prepares
them included. Vectors of the log's queries are encoded once before, and do not count. A cell is a
bed, a start and a seed: a folder in --work with the model, `cell.json` and per-query values. The
same command goes on where it was stopped, inside a cell at its last checkpoint
(`training.cpu_seconds` is then that of the last part alone).

Rows of a cell: the model's items, the same reranked (weight from the validation sets), and
:func:`served_answer`. Differences are paired by query and seed, and their intervals draw queries
with all their seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments import common

common.single_thread()

import numpy as np

from experiments.start import grown
from experiments.tokenizers import published_sids
from sidar import pipeline
from sidar.answer.facts import GENERATIVE
from sidar.answer.smoothed import SmoothedMemory
from sidar.baselines import Bm25, Dense
from sidar.config import Config
from sidar.data import open_dataset
from sidar.embed import load_embedder as open_encoder
from sidar.embed import load_items, query_side
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.slices import subset_by_hash
from sidar.evaluate.stats import bootstrap_intervals
from sidar.evaluate.systems import TextSystem
from sidar.index import PrefixIndex
from sidar.pipeline import demo
from sidar.pipeline.rows.answer_log import Log, read_log
from sidar.pipeline.rows.answer_rows import AnswerSystem
from sidar.pipeline.rows.answering import fit, tuned_lexical
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.rows.rerank import MEASURE, Reranked
from sidar.sid import load_sids
from sidar.train.order import WINDOW
from sidar.types import EvalSet, Hits

STARTS = ("default", "geometry")
MINUTES = {"demo": 10.0, "grown": 15.0, "sequence": 10.0}
MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr")
ROWS = ("model", "model+rerank", "served")
DEPTH = 500
TUNE = 200  # validation queries of each set
CHECKPOINT = 100  # steps between two


@dataclass(frozen=True)
class Cell:
    bed: str
    start: str
    seed: int
    minutes: float

    def folder(self, work: Path) -> Path:
        return work / "cells" / f"{self.bed}-{self.start}-{self.seed}-{self.minutes:g}min"


class Bed:
    """A catalogue with its log, SIDs and sets; everything but the model is made once."""

    def __init__(self, cfg: Config, make: Callable[[], Any], queries: int) -> None:
        make()
        for stage in ("sid", "index"):
            pipeline.run(cfg, only=stage)
        self.cfg, self.run, self._queries = cfg, cfg.run_dir, queries

    def configured(self, start: str, seed: int = 0, **sft: Any) -> Config:
        lm = self.cfg.lm.model_copy(update={"geometry": start == "geometry"})
        quiet = {"validate_every": 1_000_000, "checkpoint_every": CHECKPOINT, "valid_requests": 64}
        return self.cfg.model_copy(
            update={"lm": lm, "seed": seed, "sft": self.cfg.sft.model_copy(update={**quiet, **sft})}
        )

    @cached_property
    def catalogue(self) -> Any:
        return open_dataset(self.run / "data").catalogue

    @cached_property
    def sets(self) -> dict[str, list[EvalSet]]:
        """By role: ``valid`` with at most :data:`TUNE` queries of each set, ``test`` with at most
        ``queries``.
        """
        data, found = open_dataset(self.run / "data"), {}
        for role, most in (("valid", TUNE), ("test", self._queries)):
            found[role] = [cut for each in data.eval_sets(role) if len(cut := subset(each, most))]
        return found

    @cached_property
    def encoder(self) -> Any:
        return query_side(open_encoder(self.cfg.embed, "cpu"), self.cfg.sid.view)

    @cached_property
    def vectors(self) -> np.ndarray:
        return np.asarray(load_items(self.run / "embed", self.cfg.sid.view))

    @cached_property
    def dense(self) -> Dense:
        return Dense(self.vectors, self.encoder, alive=self.catalogue.alive)

    @cached_property
    def counts(self) -> np.ndarray:
        return open_dataset(self.run / "data").priors().clicks

    @cached_property
    def log(self) -> Log:
        """The memory and the requests that the answer is fitted to."""
        return read_log(
            self.cfg, self.run / "data", b"a benchmark hides nothing", self.run / ".answer-work"
        )

    @cached_property
    def lexical(self) -> Bm25:
        return tuned_lexical(Bm25(self.catalogue), self.log.asked, self.catalogue)

    def model(self, folder: Path) -> GenerativeSystem:
        sids = load_sids(self.run / "sid" / "sids.parquet", self.catalogue.item_ids)
        index = PrefixIndex.load(self.run / "index")
        return GenerativeSystem(
            "model",
            folder,
            index,
            sids,
            self.catalogue,
            self.cfg.decode,
            "cpu",
            self.encoder.encode,
        )


def served_answer(bed: Bed, model: GenerativeSystem) -> tuple[list[Hits], dict[str, Any]]:
    """What a bundle of ``model`` answers on every test set, and its constants: counts of the query
    smoothed with all channels (`fuse: memory`), fitted on the validation requests as the pipeline's
    stage ``answer`` does it."""
    log, lexical, counts = bed.log, bed.lexical, bed.counts
    base = {"bm25": TextSystem("bm25", lexical), "dense": TextSystem("dense", bed.dense)}
    channels: dict[str, Any] = {**base, GENERATIVE: model}
    alive = bed.catalogue.alive
    fitted = fit(log, channels, counts, alive)
    smoothed = SmoothedMemory(fitted.params, counts, alive, log.memory, log.secret)
    row = AnswerSystem("answer", channels, smoothed)
    return [row.hits(each.prompts, DEPTH) for each in bed.sets["test"]], fitted.to_json()


def subset(each: EvalSet, most: int) -> EvalSet:
    at = subset_by_hash(each.query_ids, most)
    ids, prompts = (tuple(part[i] for i in at) for part in (each.query_ids, each.prompts))
    return EvalSet(each.name, ids, prompts, each.qrels, each.origin)


# ---------------------------------------------------------------------- beds


def make_bed(name: str, args: argparse.Namespace) -> Bed:
    work = args.work.resolve()
    common_parts = {"threads": 1, "device": "cpu", "seed": 0}
    if name == "demo":
        inputs = work / "demo" / "inputs"
        raw = demo.merge(
            demo.base(str(inputs), "demo"), {"evaluate": {"max_queries": args.queries}}
        )
        cfg = Config.model_validate({**raw, **common_parts, "runs": str(work / "runs")})
        return Bed(
            cfg, lambda: demo.write_inputs(inputs, everything=False, tiny=False), args.queries
        )
    if name == "grown":
        place = args.grown_work.resolve()
        given = argparse.Namespace(train_threads=1, threads=1, sizes="512/256/128")
        cfg = Config.model_validate({**grown.settings(place, given), **common_parts})
        return Bed(
            cfg, lambda: grown.make_inputs(place / "inputs", args.items, "full"), args.queries
        )
    given = argparse.Namespace(
        steps=300,
        batch=96,
        lr=2e-3,
        layers=2,
        hidden=128,
        beam=128,
        queries=args.queries,
        embed="minilm",
    )
    sid = published_sids.OURS["ours, automatic"]
    cfg = published_sids.settings(args.data.resolve(), work / "runs", "sequence", sid, given)
    return Bed(cfg, lambda: None, args.queries)


# ---------------------------------------------------------------------- cells


def seconds_per_step(bed: Bed, cell: Cell, work: Path) -> float:
    """CPU seconds of a step of a start: of 1 + 16 k steps less those of one, k doubled until that
    says something.

    Sixteen batches are prepared together, so both runs have prepared as many batches as steps, and
    one pool more.
    """
    folder, budget = work / "probes" / f"{cell.bed}-{cell.start}", 60 * cell.minutes

    def cost(steps: int) -> float:
        # never half a run
        cfg = bed.configured(cell.start, steps=steps, checkpoint_every=1_000_000)
        return grown.train(cfg, bed.run, folder / f"{steps}", steps)["cpu_seconds"]

    cost(2)  # fills the cache of the log's queries
    base, pools = cost(1), 1
    while (more := cost(1 + pools * WINDOW) - base) < max(3.0, min(30.0, budget / 20)):
        pools *= 2
    return more / (pools * WINDOW)


def run_cell(bed: Bed, cell: Cell, args: argparse.Namespace) -> None:
    """Train and score one cell, unless it is finished."""
    folder = cell.folder(args.work.resolve())
    if (folder / "cell.json").is_file():
        return
    plan = folder / "plan.json"  # kept, so that a cell that was stopped goes on with as many steps
    if not plan.is_file():
        per_step = seconds_per_step(bed, cell, args.work.resolve())
        steps = max(2, round(cell.minutes * 60 / per_step))
        folder.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"steps": steps, "seconds_per_step": per_step}) + "\n")
    steps, per_step = json.loads(plan.read_text()).values()
    cfg = bed.configured(cell.start, cell.seed, steps=steps)
    cost = grown.train(cfg, bed.run, folder / "sft", steps)
    system = bed.model(folder / "sft" / "model")
    reranked = Reranked(system, bed.encoder.encode, bed.vectors)
    tuned = reranked.tune(bed.sets["valid"], bed.catalogue, TUNE)
    hits = [system.hits(each.prompts, DEPTH) for each in bed.sets["test"]]
    served, how = served_answer(bed, system)
    values, means = {}, {}
    for at, each in enumerate(bed.sets["test"]):
        truth = Truth.of_catalogue(each.qrels, each.query_ids, bed.catalogue, 1.0)
        answers = {
            "model": hits[at],
            "model+rerank": reranked.hits(each.prompts, DEPTH),
            "served": served[at],
        }
        for row, answer in answers.items():
            scores = score_ranking(truth, answer.rows, MEASURES)
            values[f"{each.name}/{row}"] = np.stack([scores[m] for m in MEASURES], 1).astype(
                np.float32
            )
            means[f"{each.name}/{row}"] = {m: round(float(scores[m].mean()), 4) for m in MEASURES}
    np.savez_compressed(folder / "values.npz", **values)
    about = {
        "steps": steps,
        "seconds_per_step": per_step,
        "minutes": cell.minutes,
        "training": cost,
    }
    about |= {"rerank": tuned["weight"], "served": how, "means": means}
    draft = folder / "cell.json.part"
    draft.write_text(json.dumps(about, indent=1) + "\n")
    draft.rename(folder / "cell.json")  # last: its presence says that the cell is finished
    print(f"{folder.name}: {steps} steps, {cost['cpu_seconds'] / 60:.1f} CPU minutes", flush=True)


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """The cells that were asked for, those of one bed together, seed by seed."""
    only = args.only.split(",") if args.only else ["", "", ""]
    for bed in args.beds.split(","):
        for seed in map(int, args.seeds.split(",")):
            for start in STARTS:
                asked = zip(only, (bed, start, str(seed)), strict=False)
                if all(want in ("", got) for want, got in asked):
                    yield Cell(bed, start, seed, MINUTES[bed] * args.minutes_scale)


# ---------------------------------------------------------------------- the comparison


def compared(
    work: Path, chosen: Sequence[Cell]
) -> tuple[list[list[Any]], dict[str, float], dict[str, Any]]:
    """Table, figures and training facts of all pairs of finished cells that differ in the start
    alone.
    """
    rows, figures, training = [], {}, {}
    for bed in dict.fromkeys(cell.bed for cell in chosen):
        done = {(c.start, c.seed): c.folder(work) for c in chosen if c.bed == bed}
        done = {key: folder for key, folder in done.items() if (folder / "cell.json").is_file()}
        seeds = sorted({seed for start, seed in done if all((s, seed) in done for s in STARTS)})
        if not seeds:
            continue
        loaded = {
            key: dict(np.load(folder / "values.npz"))
            for key, folder in done.items()
            if key[1] in seeds
        }
        for (start, seed), folder in done.items():
            training[f"{bed}/{start}/{seed}"] = json.loads((folder / "cell.json").read_text())
        for key in loaded["default", seeds[0]]:
            pair = {
                start: np.stack([loaded[start, seed][key] for seed in seeds]) for start in STARTS
            }
            found = differences(pair["geometry"], pair["default"])
            for at, measure in enumerate(MEASURES):
                name = f"{bed}/{key}/{measure}"
                means = {start: float(values[..., at].mean()) for start, values in pair.items()}
                figures |= {f"{name}/{start}": value for start, value in means.items()}
                figures |= dict(
                    zip(
                        (f"{name}/{part}" for part in ("difference", "low", "high")),
                        found[at],
                        strict=True,
                    )
                )
                if measure in ("ndcg@10", "recall@100"):
                    shown = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found[at])
                    rows.append(
                        [bed, key, measure, len(seeds), means["default"], means["geometry"], shown]
                    )
    return rows, figures, training


def differences(a: np.ndarray, b: np.ndarray) -> list[tuple[float, float, float]]:
    """Per measure mean, low and high of a − b, (seeds, queries, measures) each; queries are drawn
    with their seeds.
    """
    seeds, queries, measures = a.shape
    apart = (a.astype(np.float64) - b).reshape(-1, measures)
    intervals = bootstrap_intervals(apart, np.tile(np.arange(queries), seeds), samples=2000)
    return [(float(apart[:, at].mean()), *map(float, intervals[at])) for at in range(measures)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--work", type=Path, default=temporary / "sidar-start")
    parser.add_argument(
        "--grown-work", type=Path, default=temporary / "sidar-grown", help="as of geometry.py"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon_scientific"))
    parser.add_argument("--items", type=int, default=50_000, help="of the grown catalogue")
    parser.add_argument("--beds", default=",".join(MINUTES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="bed,start,seed; an empty part stands for all")
    parser.add_argument("--minutes-scale", type=float, default=1.0)
    parser.add_argument(
        "--queries", type=int, default=1000, help="test queries of each set, by hash"
    )
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    beds: dict[str, Bed] = {}
    work = args.work.resolve()
    for cell in cells(args):
        if not (cell.folder(work) / "cell.json").is_file():
            if cell.bed not in beds:
                beds[cell.bed] = make_bed(cell.bed, args)
            run_cell(beds[cell.bed], cell, args)
    everything = list(cells(argparse.Namespace(**{**vars(args), "only": ""})))
    rows, figures, training = compared(work, everything)
    if not rows:
        print("no pair of cells is finished yet")
        return
    common.print_table(
        ["bed", "set / row", "measure", "seeds", *STARTS, "geometry − default, 95 %"], rows
    )
    if args.save:
        config = {
            k: v
            for k, v in vars(args).items()
            if k not in ("work", "grown_work", "data", "save", "only")
        }
        config |= {"minutes": MINUTES, "measure": MEASURE}
        note = (
            "grown, grounded and day-8 sets are SIMULATED; judged sets are real, sequence is a "
            "public log"
        )
        print(common.write_results("start", config, figures, note=note, training=training))


if __name__ == "__main__":
    main()
