"""What each stage does: the calls behind the arrows, all of one shape.

``build(cfg, inputs, out, work) -> report``: a stage reads the folders ``inputs`` (by the names of
their stages), writes its files into ``out``, and keeps interrupted work in ``work``. The pipeline
wraps each in an artefact; the report holds what to print (``summary``) and what the manifest should
know (``shapes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sidar.answer.facts import read_facts
from sidar.artifacts import continues, read_manifest
from sidar.config import Config
from sidar.pipeline.runtime import device, progress
from sidar.pipeline.stage import Build
from sidar.types import Json

Inputs = Mapping[str, Path]


def data(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Catalogue and log → validated tables, requests, examples, lists, evaluation sets."""
    from rich.markup import escape

    from sidar.data import build

    # A warm start continues the bundle's row numbering: yesterday's rows keep their meaning.
    previous = Path(cfg.warm_start) / "catalogue" if cfg.warm_start else None
    try:
        report = build(cfg, out, previous=previous)
    except ValueError as error:
        kept = _keep_quarantine(out, cfg.run_dir)
        if not kept:
            raise
        raise ValueError(f"{error}\n{kept}") from error
    items, requests, quarantined = report["catalogue"], report["requests"], report["quarantined"]
    messages = [f"WARNING: {warning}" for warning in report["warnings"]]
    messages += [f"WARNING: {text}" for facts in report["eval"] for text in facts["warnings"]]
    messages += [f"note: {note}" for note in report["notes"]]
    # other formats know their own actions
    if cfg.events.format == "tabular" and report["events"]["unmapped_actions"]:
        messages.append(f"not used: {report['events']['unmapped_actions']}")
    counts = (
        f"{items['alive']:,} items, {report['events']['used']:,} events, {requests['total']:,} "
        f"requests, {report['lists']['total']:,} lists; {quarantined:,} rows quarantined"
    )
    return {
        # a console's markup, and ids may have brackets
        "summary": "\n".join([counts, *map(escape, messages)]),
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


def embed(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Item text → (N, D) vectors."""
    import sidar.embed
    from sidar.fitting.logs import Countdown

    return sidar.embed.build(
        cfg, inputs["data"], out, device=device(cfg), progress=Countdown("items embedded", progress)
    )


def sid(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Vectors → Semantic IDs, tokenizer and quality report."""
    import sidar.sid

    return sidar.sid.build(cfg, inputs["data"], inputs["embed"], out, work=work)


def sft(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """SFT of the language model; interrupted work is continued."""
    from sidar.train import train_sft

    return train_sft(cfg, inputs["data"], inputs["embed"], inputs["sid"], out, work=work)


def ranker(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """The learned ranker over the candidates of all channels: for the answer, and as a reward."""
    from sidar.pipeline.rows.ranking import ranker as build

    return build(cfg, inputs, out, work)


def aligned_from(start: str) -> Build:
    """Return the stage that aligns the model in the folder ``start``, mostly ``sft``."""

    def align(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
        """Alignment under ``cfg.align``; interrupted work is continued."""
        from sidar.train import train_align

        data, sids, embedded = inputs["data"], inputs["sid"], inputs["embed"]
        return train_align(cfg, data, sids, inputs[start], out, work=work, embed_folder=embedded)

    return align


def dense(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """The encoder fine-tuned on the training rows, and its item vectors; interrupted work is
    continued.
    """
    from sidar.train import train_dense

    return train_dense(cfg, inputs["data"], out, work=work)


def index(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """SIDs and priors → prefix index."""
    import sidar.index

    return sidar.index.build_stage(cfg, inputs["sid"], inputs["data"], out)


def answer(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Memory, tuned lexical channel, and the constants of the answer around the aligned model of
    ``cfg.align``.
    """
    from sidar.pipeline.rows.answering import answer as build

    return build(cfg, inputs, out, work)


def bundle(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Everything that serving needs, around the aligned model of ``cfg.align``: what the stage
    ``answer`` has fitted, and the item vectors where it fuses or reranks.
    """
    from sidar.serve.bundle import BundleSources, write_bundle

    label = cfg.align.model_name
    sources = BundleSources(
        data=inputs["data"],
        embed=inputs["embed"],
        sid=inputs["sid"],
        index=inputs["index"],
        model=inputs[cfg.align.folder] / "model",
        config=cfg.model_dump(mode="json", include={"decode", "embed"}),
        label=label,
        rerank=read_facts(inputs["answer"]).get("rerank"),
        answer=inputs["answer"],
    )
    return write_bundle(out, sources)


def evaluate(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
    """Score the baselines, plug-ins' channels and the models of ``inputs`` on every evaluation set
    of role test.

    ``dense-tuned`` is a row where the encoder that `sidar tune-dense` leaves is among the inputs;
    ``dense.index`` says whether the dense rows search exactly or through an index. SFT and the
    model that is served are also fused with BM25 + dense; weights come from the sets of role valid.
    ``evaluate.prompts: semantic`` asks with the query alone. The sets are those of the config as it
    stands now; the data folder's ``eval/`` may be older. Sets whose queries training has seen are
    named in the summary.
    """
    from rich.markup import escape

    from sidar.data.judgments.evalsets import build_sets, held_out_advice
    from sidar.evaluate.measures.hitrate import in_mode
    from sidar.evaluate.suite import run_suite
    from sidar.pipeline.rows.systems import RunParts, all_rows

    stored = build_sets(cfg, inputs["data"])
    advice = [warning for one in stored for warning in one.warnings]
    advice += [leak] if (leak := held_out_advice(cfg, stored)) else []
    valid, test = (
        in_mode([one.evalset for one in stored if one.role == role], cfg.evaluate.prompts)
        for role in ("valid", "test")
    )
    trained_on = {one.evalset.name: one.trained_on for one in stored if one.trained_on}
    parts = RunParts(cfg, inputs)
    systems = all_rows(parts, valid, work)
    scores = run_suite(
        systems,
        test,
        parts.dataset.catalogue,
        parts.dataset.priors(),
        parts.index,
        out=out,
        cfg=cfg,
        tune_sets=valid,
        # every further fusion decodes the validation sets too
        fuse_with={"sft", cfg.align.model_name},
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
