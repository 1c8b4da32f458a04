"""One cell: train what must be trained, score its pools, look into its mechanisms, leave JSON and
per-query values.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import commit, device, versions
from experiments.raddpo.bed import Bed
from experiments.raddpo.plan import CHANNELS, FUSIONS, Cell
from experiments.raddpo.registration import registration, registration_hash
from experiments.raddpo.scoring import Columns, Judge, means, write_values
from experiments.raddpo.sets import Pool, pools
from sidar.artifacts import replace_folder
from sidar.config import Config
from sidar.data import open_dataset
from sidar.evaluate.slices import subset_by_hash
from sidar.index import PrefixIndex
from sidar.sid import load_sids
from sidar.types import Hits

#: Sections of the config that a cell's JSON carries; paths stay out of it.
SECTIONS = ("seed", "lm", "sft", "preference", "align", "sid", "embed", "dense")
SFT_SECTIONS = ("seed", "lm", "sft", "sid", "embed")  # what an SFT model depends on
#: Probability that invalid mass may be too large by (the walk does not follow rarer prefixes).
INVALID_TOLERANCE = 1e-3
PROBED_LISTS = 256


@dataclass
class Context:
    """Where a worker works: the bed, the folder of single cells, the device, what it has loaded."""

    bed: Bed
    results: Path
    device: str = "cpu"

    @cached_property
    def catalogue(self) -> Any:
        return open_dataset(self.bed.data()).catalogue

    def index(self, sizes: str) -> PrefixIndex:
        return PrefixIndex.build(self.sids(sizes), open_dataset(self.bed.data()).priors().prior)

    def sids(self, sizes: str) -> Any:
        return load_sids(self.bed.sid(sizes) / "sids.parquet", self.catalogue.item_ids)

    def model(self, name: str) -> Path:
        """Where the model of a cell stands."""
        return self.bed.work / "models" / name.replace("/", "-")

    def scored(self, cell: Cell) -> Path:
        """The checkpoint of a cell that is scored: the final one, or on the axis ``checkpoint`` day
        7's best.
        """
        return self.model(cell.name) / (
            "best" if cell.axes.get("checkpoint") == "best" else "model"
        )

    def hits(self, system: str, pool: str) -> Path:
        """Where a channel's answers to a pool stand, for fusions."""
        return self.bed.work / "hits" / f"{system}.{pool}.npz"

    def answered(self, system: str) -> bool:
        """Whether the answers of a channel are there (True for what is no channel: nobody joins
        it).
        """
        return system not in (*CHANNELS, *FUSIONS) or self.hits(system, "judged_dev").is_file()

    def config(self, cell: Cell) -> Config:
        return self.bed.config(
            device=self.device,
            sid={"codebook_sizes": [int(size) for size in cell.sizes.split("/")]},
            **cell.config,
        )


def identity(cell: Cell, context: Context) -> dict[str, Any]:
    """What must be equal for a cell's JSON to be the result of this cell."""
    spec = json.loads(json.dumps(cell.spec))  # as it reads back
    spec.pop("groups")
    spec.pop("needs")
    return {
        "spec": spec,
        "bed": context.bed.identity(cell.data, cell.sizes),
        "registration": registration_hash(),
    }


def is_done(cell: Cell, context: Context, kept: Mapping[str, dict[str, Any]]) -> bool:
    """True where the work folder or the ``kept`` cells hold this very cell."""
    path = context.results / f"{cell.name}.json"
    made = [kept[cell.name]] if cell.name in kept else []
    if path.is_file() and path.with_suffix(".parquet").is_file():
        made.append(json.loads(path.read_text()))
    wanted = identity(cell, context)
    return any(_identity_of(facts) == wanted for facts in made)


def _identity_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`identity` of a cell that was made."""
    spec = {key: value for key, value in facts["spec"].items() if key not in ("groups", "needs")}
    return {"spec": spec, "bed": facts["bed"], "registration": facts["registration"]}


# ---------------------------------------------------------------------- training


def train_model(cell: Cell, context: Context) -> dict[str, Any]:
    """Train the model of an SFT or alignment cell into ``context.model(name)``; a finished one is
    kept.

    Interrupted work is continued. Returns the training report, which also stands beside the model.
    """
    from sidar.train import train_align, train_sft

    folder = context.model(cell.name)
    done = folder / "trained.json"
    cfg = context.config(cell)
    dumped = cfg.resolved().model_dump(mode="json")
    said = {name: dumped[name] for name in (SFT_SECTIONS if cell.parent is None else SECTIONS)}
    wanted = json.loads(
        json.dumps({"config": said, "parent": cell.parent, **identity(cell, context)["bed"]})
    )
    if done.is_file():
        found = json.loads(done.read_text())
        if _as_read_today(found["wanted"], cfg, said) == wanted:
            return found["report"]
        shutil.rmtree(folder)
    data, sid = context.bed.data(cell.data), context.bed.sid(cell.sizes)
    tmp, work = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.work")
    shutil.rmtree(tmp, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (
        not (work / "wanted.json").is_file()
        or json.loads((work / "wanted.json").read_text()) != wanted
    ):
        shutil.rmtree(work, ignore_errors=True)  # interrupted work of another config
    work.mkdir(exist_ok=True)
    (work / "wanted.json").write_text(json.dumps(wanted))
    if cell.parent is None:
        report = train_sft(cfg, data, None, sid, tmp, work=work, progress=False)
    else:
        report = train_align(
            cfg, data, sid, context.model(cell.parent), tmp, work=work, progress=False
        )
    if "checkpoint" not in cell.axes:
        shutil.rmtree(tmp / "best", ignore_errors=True)
    (tmp / "trained.json").write_text(
        json.dumps({"wanted": wanted, "report": report}, default=float) + "\n"
    )
    replace_folder(tmp, folder)
    shutil.rmtree(work, ignore_errors=True)
    return json.loads(done.read_text())["report"]


def _as_read_today(wanted: dict[str, Any], cfg: Any, sections: Iterable[str]) -> dict[str, Any]:
    """``wanted`` of a trained model, its ``sections`` with the defaults of fields that its config
    did not have yet.

    A null of `align` that it recorded stays null, so that it equals no value: it does not say what
    was used.
    """
    read = type(cfg).model_validate({**cfg.model_dump(mode="json"), **wanted["config"]})
    whole = read.resolved().model_dump(mode="json")
    whole["align"] |= {
        name: None for name, value in wanted["config"].get("align", {}).items() if value is None
    }
    return {**wanted, "config": {name: whole[name] for name in sections}}


# ---------------------------------------------------------------------- the cell


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Run ``cell`` and write ``<name>.json`` and ``<name>.parquet`` into the results; returns the
    JSON's content.
    """
    seconds: dict[str, float] = {}
    train: dict[str, Any] = {}
    mechanism: dict[str, Any] = {}
    judge = Judge(context.catalogue, context.index(cell.sizes), registration()["bed"]["beam"])
    scored = pools(context.bed, cell.pools)
    if cell.kind in ("sft", "align"):
        start = time.monotonic()
        report = train_model(cell, context)
        seconds["train"] = report["seconds"]
        train = _train_facts(context.model(cell.name), report)
        start = time.monotonic()
        columns, fusion = _score_model(cell, context, judge, scored)
        seconds["score"] = time.monotonic() - start
        if cell.probe:
            start = time.monotonic()
            mechanism = _probe(cell, context)
            seconds["mechanism"] = time.monotonic() - start
    else:
        from experiments.raddpo.channels import score_channel

        start = time.monotonic()
        columns, fusion = score_channel(cell, context, judge, scored)
        seconds["score"] = time.monotonic() - start
    context.results.mkdir(parents=True, exist_ok=True)
    write_values(context.results / f"{cell.name}.parquet", scored, columns)
    return keep_cell(
        cell,
        context,
        index=_index_facts(context.index(cell.sizes)),
        threads=_threads(),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        figures=means(columns),
        mechanism=mechanism,
        fusion=fusion,
        train=train,
    )


def keep_cell(cell: Cell, context: Context, **measured: Any) -> dict[str, Any]:
    """Write ``cell.json``, last, since it says that the cell is finished, and return its content:
    what the cell is, made by which code, and what was ``measured``. An aligned model is deleted.
    """
    cfg = context.config(cell)
    dumped = cfg.resolved().model_dump(mode="json")
    share = context.bed.relevant_share(cell.data, cfg.preference.max_negatives)
    content = {
        "version": 1,
        "cell": cell.name,
        "system": cell.system,
        "kind": cell.kind,
        "parent": cell.parent,
        "seed": cell.seed,
        "groups": list(cell.groups),
        "axes": cell.axes,
        "spec": cell.spec,
        "config": {name: dumped[name] for name in SECTIONS},
        "bed": context.bed.identity(cell.data, cell.sizes),
        "lists": {"relevant_share": share},
        "registration": registration_hash(),
        "commit": commit(),
        "versions": versions(),
        "device": device() | {"used": context.device},
        **measured,
    }
    path = context.results / f"{cell.name}.json"
    tmp = path.with_name(f".{path.name}.tmp")
    tmp.write_text(json.dumps(content, indent=1, default=float) + "\n")
    tmp.replace(path)
    if cell.kind == "align":
        shutil.rmtree(context.model(cell.name))
    return content


def _index_facts(index: PrefixIndex) -> dict[str, float]:
    """How full the index is, and what a model that knows nothing would put outside it
    (docs/evaluation.md).
    """
    uniform = 1.0 - index.n_sids / float(np.prod([float(size) for size in index.codebook_sizes]))
    return {
        "n_sids": index.n_sids,
        "density": float(index.density),
        "uniform_invalid_mass": uniform,
    }


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _train_facts(model: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What the page tells of a training run: its validations, gradient ratio, and the log of its
    lists.
    """
    from experiments.raddpo.mechanisms import oscillation

    rows = [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]
    facts = {
        key: report[key]
        for key in ("loss", "gradient_ratio", "counts", "best", "final")
        if key in report
    }
    facts["steps"] = max((row["step"] for row in rows), default=0)
    facts["valid"] = [
        {k: v for k, v in row.items() if k != "kind"} for row in rows if row["kind"] == "valid"
    ]
    trained = [row for row in rows if row["kind"] == "train"]
    if any("logp/star_first" in row for row in trained):
        facts["oscillation"] = oscillation(trained)
    if "rdrw" in report.get("shapes", {}):
        facts["rdrw"] = report["shapes"]["rdrw"]
    return facts


def _score_model(
    cell: Cell, context: Context, judge: Judge, scored: list[Pool]
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """Every pool from one beam per query; fusions with BM25 and tuned dense on held-out pools."""
    from sidar.decode import to_hits
    from sidar.lm import SidLM
    from sidar.serve.retriever import Retriever

    model = SidLM.from_pretrained(context.scored(cell), device=context.device)
    index, sids = context.index(cell.sizes), context.sids(cell.sizes)
    retriever = Retriever(model, index, sids, context.catalogue)

    def answers(pool: Pool) -> tuple[np.ndarray, Hits]:
        beams = retriever.beams(pool.prompts, judge.beam)
        return beams.sids, to_hits(beams, index, 200)

    columns: dict[str, Columns] = {}
    kept: dict[str, Hits] = {}
    for pool in scored:
        found, hits = answers(pool)
        columns[pool.name], kept[pool.name] = judge.score(pool, hits.rows, found), hits
        # the same beam in the order of the true utility
        if cell.kind == "sft" and "utility" in pool.targets:
            reordered = judge.by_utility(
                pool, open_dataset(context.bed.data()).priors().prior, found
            )
            columns[pool.name] |= {
                f"reachable.{name}": values for name, values in reordered.items()
            }
        if cell.invalid and pool.name == "day8":
            columns[pool.name] |= _invalid(model, sids, index, pool)
    fusion: dict[str, Any] = {}
    if cell.fused:
        from experiments.raddpo.channels import fuse_with_channels

        fusion = fuse_with_channels(
            context, judge, columns, kept, scored, lambda pool: answers(pool)[1]
        )
    return columns, fusion


def _invalid(model: Any, sids: Any, index: PrefixIndex, pool: Pool) -> Columns:
    """Exact invalid mass and invalid shares of free beams (docs/evaluation.md) on a few queries, in
    fp32.
    """
    from sidar.decode import Trie, free_beam_search, invalid_mass
    from sidar.decode.free import NOT_A_CODE
    from sidar.lm.scorer import LmScorer

    clicks = pool.targets["click"].at
    at = clicks[
        subset_by_hash(
            [pool.query_ids[q] for q in clicks.tolist()], registration()["bed"]["invalid"]
        )
    ]
    scorer = LmScorer(model, precision="fp32")
    trie = Trie(index, scorer.device)
    tokens = model.prompts.encode_batch([pool.prompts[q] for q in at.tolist()], sids)
    free = free_beam_search(scorer, tokens, trie, 128)
    found = {
        "mass": invalid_mass(scorer, tokens, trie, tolerance=INVALID_TOLERANCE),
        "free@10": free.invalid_rate(10),
        "free@128": free.invalid_rate(128),
        "not_code@10": (free.kind[:, :10] == NOT_A_CODE).sum(1)
        / np.maximum((free.kind[:, :10] >= 0).sum(1), 1),
    }
    from experiments.raddpo.scoring import spread

    return {f"invalid.{name}": spread(values, at, len(pool)) for name, values in found.items()}


def _probe(cell: Cell, context: Context) -> dict[str, float]:
    """RAD-DPO's mechanisms (docs/methods/raddpo.md) on validation lists with known truth."""
    from experiments.raddpo.mechanisms import labelled_lists, measure, probe
    from sidar.embed import load_items
    from sidar.lm import SidLM

    cfg = context.config(cell)
    model = SidLM.from_pretrained(context.scored(cell), device=context.device)
    lists = labelled_lists(
        context.bed.data(),
        context.bed.sid(cell.sizes),
        context.bed.truth,
        model.prompts,
        limit=PROBED_LISTS,
    )
    reference = None
    if cell.parent is not None:
        reference = SidLM.from_pretrained(
            context.model(cell.parent) / "model", device=context.device
        )
    said = measure(model, lists)
    return probe(
        model,
        lists,
        cfg.align,
        reference=reference,
        said=said,
        vectors=np.asarray(load_items(context.bed.embed)),
        max_negatives=cfg.preference.max_negatives,
    )
