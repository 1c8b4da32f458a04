"""What each stage does: the calls behind the arrows. Every function is ``(cfg, run folder, out
folder) -> report``.

The pipeline wraps each in an artefact, so a function only writes its files into ``out`` and returns
what to print (``summary``) and what the manifest should know (``shapes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidar.answer.facts import read_facts
from sidar.artifacts import continues, read_manifest
from sidar.config import Config
from sidar.pipeline.runtime import device, progress, work_folder


def data(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Catalogue and log → validated tables, requests, examples, lists, evaluation sets."""
    from rich.markup import escape

    from sidar.data import build

    # A warm start continues the bundle's row numbering: yesterday's rows keep their meaning.
    previous = Path(cfg.warm_start) / "catalogue" if cfg.warm_start else None
    try:
        report = build(cfg, out, previous=previous)
    except ValueError as error:
        kept = _keep_quarantine(out, run)
        if not kept:
            raise
        raise ValueError(f"{error}\n{kept}") from error
    items, requests, quarantined = report["catalogue"], report["requests"], report["quarantined"]
    said = [f"WARNING: {each}" for each in report["warnings"]]
    said += [f"WARNING: {warning}" for each in report["eval"] for warning in each["warnings"]]
    said += [f"note: {each}" for each in report["notes"]]
    # other formats know their own actions
    if cfg.events.format == "tabular" and report["events"]["unmapped_actions"]:
        said.append(f"not used: {report['events']['unmapped_actions']}")
    counts = (
        f"{items['alive']:,} items, {report['events']['used']:,} events, {requests['total']:,} "
        f"requests, {report['lists']['total']:,} lists; {quarantined:,} rows quarantined"
    )
    return {
        # a console's markup, and ids may have brackets
        "summary": "\n".join([counts, *map(escape, said)]),
        "shapes": {
            "items": items["items"],
            "lineage": items["lineage"],
            "continues": continues(previous) if previous else [],
            **{key: report[key] for key in ("requests", "sft", "lists", "eval", "held_out")},
        },
    }


def _keep_quarantine(out: Path, run: Path) -> str:
    """Keep the refused rows of a stage that stopped; return where they are, "" where there are
    none.

    They stand where a finished stage has them, or beside an older data folder, which stays as it
    is.
    """
    import shutil

    import pyarrow.parquet as pq

    from sidar.data.stage import QUARANTINE

    file = out / QUARANTINE
    if not file.is_file():
        return ""
    rows = pq.read_metadata(file).num_rows
    if not rows:
        return ""
    folder = run / "data" if read_manifest(run / "data") is None else run
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / QUARANTINE)
    return f"{rows:,} refused row{'s' * (rows != 1)}: {folder / QUARANTINE}"


def embed(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Item text → (N, D) vectors."""
    import sidar.embed
    from sidar.fitting.logs import Countdown

    return sidar.embed.build(
        cfg, run / "data", out, device=device(cfg), progress=Countdown("items embedded", progress)
    )


def sid(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Vectors → Semantic IDs, tokenizer and quality report."""
    import sidar.sid

    return sidar.sid.build(cfg, run / "data", run / "embed", out, work=work_folder(run / "sid"))


def sft(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """SFT of the language model; interrupted work is continued from ``.sft.work``."""
    from sidar.train import train_sft

    return train_sft(
        cfg, run / "data", run / "embed", run / "sid", out, work=work_folder(run / "sft")
    )


def align(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Alignment of the SFT model under ``cfg.align``."""
    from sidar.train import train_align

    work = work_folder(run / cfg.align.folder)
    return train_align(
        cfg, run / "data", run / "sid", run / "sft", out, work=work, embed_folder=run / "embed"
    )


def dense(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """The encoder fine-tuned on the training rows, and its item vectors."""
    from sidar.train import train_dense

    return train_dense(cfg, run / "data", out, work=work_folder(run / "dense"))


def index(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """SIDs and priors → prefix index."""
    import sidar.index

    return sidar.index.build_stage(cfg, run / "sid", run / "data", out)


def answer(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Memory, tuned lexical channel, and the constants of the answer around the aligned model of
    ``cfg.align``.
    """
    from sidar.pipeline.answering import answer as build

    return build(cfg, run, out)


def bundle(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Everything that serving needs, around the aligned model of ``cfg.align``: what the stage
    ``answer`` has fitted, and the item vectors where it fuses or reranks."""
    from sidar.serve.bundle import BundleSources, write_bundle

    label = cfg.align.label or cfg.align.objective
    sources = BundleSources(
        data=run / "data",
        embed=run / "embed",
        sid=run / "sid",
        index=run / "index",
        model=run / cfg.align.folder / "model",
        config=cfg.model_dump(mode="json", include={"decode", "embed"}),
        label=label,
        rerank=read_facts(run / "answer").get("rerank"),
        answer=run / "answer",
    )
    return write_bundle(out, sources)


def evaluate(cfg: Config, run: Path, out: Path, models: Sequence[str] = ()) -> dict[str, Any]:
    """Score the baselines and ``models`` (stage folders) on every evaluation set of role test.

    ``dense-tuned`` is a row where `sidar tune-dense` has left a ``dense`` folder; ``dense.index``
    says whether the dense rows search exactly or through an index. SFT and the model that is served
    are also fused with BM25 + dense; weights come from the sets of role valid. ``evaluate.prompts:
    semantic`` asks with the query alone. The sets are those of the config as it stands now; the
    data folder's ``eval/`` may be older. Sets whose queries training has seen are named in the
    summary.
    """
    from rich.markup import escape

    from sidar.baselines import Bm25, Popularity, QuantisedDense
    from sidar.data import open_dataset
    from sidar.data.evalsets import build_sets, held_out_advice
    from sidar.embed import load_embedder, load_items, query_side
    from sidar.evaluate.hitrate import in_mode
    from sidar.evaluate.metrics import objective
    from sidar.evaluate.suite import run_suite
    from sidar.evaluate.systems import System, TextSystem, fusion_parts
    from sidar.index import PrefixIndex
    from sidar.pipeline.answer_rows import answer_rows
    from sidar.pipeline.dense_rows import dense_rows
    from sidar.pipeline.generative import GenerativeSystem
    from sidar.pipeline.rerank import Reranked
    from sidar.sid import load_sids, load_tokenizer

    dataset = open_dataset(run / "data")
    catalogue, priors = dataset.catalogue, dataset.priors()
    stored = build_sets(cfg, run / "data")
    advice = [warning for each in stored for warning in each.warnings]
    advice += [leak] if (leak := held_out_advice(cfg, stored)) else []
    valid, test = (
        in_mode([each.evalset for each in stored if each.role == role], cfg.evaluate.prompts)
        for role in ("valid", "test")
    )
    trained_on = {each.evalset.name: each.trained_on for each in stored if each.trained_on}
    lexical = Bm25(catalogue)
    tuning = next((each for each in valid if each.origin == "real"), valid[0] if valid else None)
    if tuning is not None:
        lexical = lexical.tune(
            [p.query for p in tuning.prompts], objective(tuning, catalogue, "ndcg@10")
        )
    embedder = load_embedder(cfg.embed, device(cfg))
    index = PrefixIndex.load(run / "index")
    tokenizer = load_tokenizer(run / "sid")
    clusters = tokenizer.reconstruct(index.table)
    systems: dict[str, System] = {
        "bm25": TextSystem("bm25", lexical),
        **dense_rows(cfg, run, "embed", embedder, catalogue.alive),
        "quantised-dense": QuantisedDense(
            clusters, index.expand_with_source, query_side(embedder, cfg.sid.view)
        ),
        "popularity": TextSystem("popularity", Popularity(priors.prior, alive=catalogue.alive)),
    }
    if read_manifest(run / "dense") is not None:
        own = cfg.embed.model_copy(update={"model": str(run / "dense" / "model")})
        how = "encoder fine-tuned on the training rows"
        encoder = load_embedder(own, device(cfg))
        systems |= dense_rows(cfg, run, "dense", encoder, catalogue.alive, "dense-tuned", how)
    sids = load_sids(run / "sid" / "sids.parquet", catalogue.item_ids)
    reader = query_side(embedder, cfg.sid.view).encode
    for name, model in checkpoints(run, models, cfg.evaluate.best):
        written = GenerativeSystem(
            name, model, index, sids, catalogue, cfg.decode, device(cfg), reader
        )
        systems[name] = written
        if cfg.evaluate.wide_beam is not None:
            row = f"{name}@{cfg.evaluate.wide_beam}"
            wide = cfg.decode.model_copy(update={"beam": cfg.evaluate.wide_beam})
            systems[row] = GenerativeSystem(
                row, model, index, sids, catalogue, wide, device(cfg), reader
            )
        if cfg.decode.rerank == "dense":
            reranked = Reranked(written, query_side(embedder).encode, load_items(run / "embed"))
            systems[reranked.name] = reranked
    rows = answer_rows(cfg, run, systems, embedder, priors)
    systems |= rows.systems
    parts = [
        (name,) if name in systems else fusion_parts(name, systems) for name in cfg.evaluate.systems
    ]
    # a name that is unknown is told by the suite, with those that there are
    if parts and None not in parts:
        wanted = {part for some in parts for part in some or ()}
        systems = {name: system for name, system in systems.items() if name in wanted}
    for system in systems.values():
        if isinstance(system, Reranked) and system.weight is None:
            tune_on, most = rows.tuning_of(valid, cfg.evaluate.tune_queries)
            progress(f"{system.name}: weight {system.tune(tune_on, catalogue, most)['weight']:g}")
    # every further fusion decodes the validation sets too
    fused = {"sft", cfg.align.label or cfg.align.objective}
    scores = run_suite(
        systems,
        test,
        catalogue,
        priors,
        index,
        out=out,
        cfg=cfg,
        tune_sets=valid,
        fuse_with=fused,
        trained_on=trained_on,
        say=progress,
    )
    counts = f"{len(systems)} systems on {', '.join(f'{each.name} ({len(each)})' for each in test)}"
    return {
        "summary": "\n".join([counts, *(escape(f"WARNING: {each}") for each in advice)]),
        "shapes": {
            "systems": list(systems),
            "sets": {each.name: len(each) for each in test},
            "trained_on": trained_on,
        },
        "scores": scores,
    }


def checkpoints(run: Path, models: Sequence[str], best: bool) -> list[tuple[str, Path]]:
    """Row names and model folders: each stage's final model and, with ``best``, its best one where
    that is another.
    """
    found = []
    for folder in models:
        name = folder.removeprefix("align-")
        found.append((name, run / folder / "model"))
        manifest = read_manifest(run / folder)
        if (
            best
            and manifest
            and manifest.shapes["best"].get("step") != manifest.shapes["final"].get("step")
        ):
            found.append((f"{name}-best", run / folder / "best"))
    return found
