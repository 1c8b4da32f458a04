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

    from sidar.data.evalsets import build_sets, held_out_advice
    from sidar.evaluate.hitrate import in_mode
    from sidar.evaluate.suite import run_suite
    from sidar.pipeline import systems as rows
    from sidar.pipeline.answer_rows import answer_rows

    stored = build_sets(cfg, run / "data")
    advice = [warning for one in stored for warning in one.warnings]
    advice += [leak] if (leak := held_out_advice(cfg, stored)) else []
    valid, test = (
        in_mode([one.evalset for one in stored if one.role == role], cfg.evaluate.prompts)
        for role in ("valid", "test")
    )
    trained_on = {one.evalset.name: one.trained_on for one in stored if one.trained_on}

    parts = rows.RunParts(cfg, run)
    inputs = parts.channel_inputs(valid)
    systems = rows.baseline_rows(parts, inputs) | rows.tuned_dense_rows(parts)
    folders = rows.model_folders(run, models, cfg.evaluate.best)
    trained = rows.generative_rows(parts, folders)
    systems |= rows.plugin_rows(cfg, inputs, [*systems, *trained])
    systems |= trained
    answers = answer_rows(cfg, run, systems, parts.embedder, inputs.priors)
    systems = rows.wanted_systems(systems | answers.systems, cfg.evaluate.systems)
    rows.tune_reranking(systems, answers, valid, parts)

    scores = run_suite(
        systems,
        test,
        parts.dataset.catalogue,
        inputs.priors,
        parts.index,
        out=out,
        cfg=cfg,
        tune_sets=valid,
        # every further fusion decodes the validation sets too
        fuse_with={"sft", cfg.align.label or cfg.align.objective},
        trained_on=trained_on,
        say=progress,
    )
    counts = f"{len(systems)} systems on {', '.join(f'{one.name} ({len(one)})' for one in test)}"
    return {
        "summary": "\n".join([counts, *(escape(f"WARNING: {one}") for one in advice)]),
        "shapes": {
            "systems": list(systems),
            "sets": {one.name: len(one) for one in test},
            "trained_on": trained_on,
        },
        "scores": scores,
    }
