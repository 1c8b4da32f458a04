"""``sidar sids encode`` and ``sidar sids alarms``: today's catalogue under yesterday's codebooks,
without training.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sidar import pipeline
from sidar.answer.carry import carry_to_catalogue
from sidar.answer.facts import dense_probes, read_facts
from sidar.answer.key import carry_key, check_carried
from sidar.answer.memory import Memory
from sidar.config import AlarmsConfig, Config
from sidar.data.catalogue import open_catalogue
from sidar.embed import load_items
from sidar.embed.items import FILES as VIEWS
from sidar.index.dual_view import DualViewIndex
from sidar.serve.bundle import ANSWER, BundleSources, build_bundle, open_bundle
from sidar.serve.bundle.encoder import ENCODER
from sidar.sid.lifecycle.alarms import Alarm, alarms
from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.lifecycle.reference import load_reference
from sidar.sid.table import load_sids
from sidar.types import Json, PathLike

if TYPE_CHECKING:
    from rich.console import Console


def encode(
    cfg: Config, bundle: PathLike, out: PathLike | None = None, console: Console | None = None
) -> Path:
    """Read today's catalogue, give new items SIDs under the bundle's codebooks, and bundle them
    with its model.

    The stages data, embed, sid and index of ``cfg``'s run are made as a warm start makes them;
    ``sidar run --from`` goes on from there. A bundle that reranks goes on reranking by its weight,
    over today's item vectors; one that is fused answers from its memory and constants, with BM25
    and the dense channel's index over today's items, and the file of its key is copied into the
    run. Returns ``out``, default ``bundle-encoded`` in the run. ``ValueError`` where the bundle is
    that run's own, since its stages would be replaced under it, or where the new bundle would stand
    beside the key of another memory.
    """
    bundle = Path(bundle).resolve()
    if bundle.is_relative_to(cfg.run_dir.resolve()):
        raise ValueError(
            f"{bundle} is a bundle of the run {cfg.name!r}, whose data, vectors and SIDs today's "
            "would replace; give today's run a name of its own, e.g. name=today"
        )
    opened = open_bundle(bundle)
    out = Path(out) if out is not None else cfg.run_dir / "bundle-encoded"
    if opened.fuse != "none":
        check_carried(Memory.load(bundle / ANSWER), [cfg.run_dir, out.resolve().parent])
    cfg = cfg.model_copy(update={"warm_start": str(bundle)})
    pipeline.run(cfg, only="index", console=console)
    run = cfg.run_dir
    folders: Json = {name: run / name for name in ("data", "embed", "sid", "index")}
    config = cfg.model_dump(mode="json", include={"decode", "embed"})
    # as the bundle: nothing chose a weight
    config["decode"]["rerank"] = "none" if opened.rerank is None else "dense"
    config["decode"]["fuse"] = opened.fuse
    with tempfile.TemporaryDirectory(prefix=".answer-", dir=run) as answer:
        if opened.fuse != "none":
            today = open_catalogue(run / "data" / "catalogue.arrow")
            carry_to_catalogue(bundle / ANSWER, today, answer)
            _carry_cells(bundle, run / "embed", today.alive, Path(answer))
            carry_key(bundle, run)
        build_bundle(
            out,
            BundleSources(
                **folders,
                model=bundle / "model",
                config=config,
                label=opened.label,
                rerank=opened.rerank,
                encoder=bundle / "embed" / ENCODER,
                answer=None if opened.fuse == "none" else answer,
            ),
        )
    return out


def _carry_cells(bundle: Path, embed: Path, alive: np.ndarray, out: Path) -> None:
    """Write the index of the bundle's dense channel into ``out``, over today's item vectors; its
    cells stay.
    """
    if dense_probes(read_facts(bundle / ANSWER)) is None:
        return
    kept = DualViewIndex.load(bundle / ANSWER, load_items(bundle / "embed"))
    query_view = load_items(embed, "query") if (embed / VIEWS["query"]).is_file() else None
    kept.with_items(load_items(embed), query_view, alive=alive).save(out)


def check(where: PathLike, limits: AlarmsConfig) -> list[Alarm]:
    """The alarms of a run or a bundle.

    ``ValueError`` where its SIDs are older than ledger and reference.
    """
    where = Path(where)
    file = next(
        (f / "catalogue.arrow" for f in (where / "catalogue", where / "data") if f.is_dir()), None
    )
    if file is None or not (where / "sid").is_dir():
        raise ValueError(f"{where} is neither a run with data and sid nor a bundle")
    ledger, reference = Ledger.load(where / "sid"), load_reference(where / "sid")
    if ledger is None or reference is None:
        raise ValueError(
            f"{where / 'sid'} has no ledger.parquet or reference.json, so nothing says what new "
            "items are to be compared with; make it again with `sidar sid`"
        )
    catalogue = open_catalogue(file)
    sids = load_sids(where / "sid" / "sids.parquet", catalogue.item_ids)
    return alarms(sids, catalogue.item_ids, ledger, reference, limits)
