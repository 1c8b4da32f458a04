"""The rows of a table: baselines, channels of plug-ins, trained models, and what is served."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sidar.artifacts import read_manifest
from sidar.baselines import ChannelInputs, QuantisedDense, System, Validation
from sidar.baselines.channel import fitted_channel
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.dataset import Dataset
from sidar.embed import Embedder, load_embedder, load_items, query_side
from sidar.evaluate.measures import metrics
from sidar.evaluate.systems import fusion_parts
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_rows import AnswerRows, answer_rows
from sidar.pipeline.rows.dense_rows import dense_rows
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.rows.rerank import Reranked
from sidar.pipeline.runtime import device, progress
from sidar.sid import load_sids, load_tokenizer
from sidar.types import EvalSet


@dataclass(frozen=True)
class RunParts:
    """What the rows of a run are made from, each opened when it is first asked for."""

    cfg: Config
    inputs: Mapping[str, Path]

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.inputs["data"])

    @cached_property
    def embedder(self) -> Embedder:
        return load_embedder(self.cfg.embed, self.device)

    @cached_property
    def index(self) -> PrefixIndex:
        return PrefixIndex.load(self.inputs["index"])

    @property
    def device(self) -> str:
        return device(self.cfg)

    def channel_inputs(self, valid: Sequence[EvalSet]) -> ChannelInputs:
        """Return what channels are fitted on; constants are chosen on the first real set of
        ``valid``, else on its first.
        """
        real = [one for one in valid if one.origin == "real"]
        validation = None
        for one in (real or valid)[:1]:
            value = metrics.objective(one, self.dataset.catalogue, "ndcg@10")
            validation = Validation(one.prompts, value)
        return ChannelInputs(
            self.dataset,
            load_items(self.inputs["embed"]),
            query_side(self.embedder),
            validation,
            self.cfg.seed,
            self.device,
        )


def all_rows(parts: RunParts, valid: Sequence[EvalSet], work: Path) -> dict[str, System]:
    """Return the systems that a table scores, by name; what they must be tuned on are the sets
    ``valid``, or the requests that the answer was fitted to.
    """
    cfg, inputs = parts.cfg, parts.channel_inputs(valid)
    rows = baseline_rows(parts, inputs) | tuned_dense_rows(parts)
    trained = generative_rows(parts, checkpoints(parts.inputs, cfg.evaluate.best))
    rows |= plugin_rows(cfg, inputs, [*rows, *trained])
    rows |= trained
    answers = answer_rows(cfg, parts.inputs, rows, parts.embedder, inputs.priors, work)
    rows = wanted_systems(rows | answers.systems, cfg.evaluate.systems)
    tune_reranking(rows, answers, valid, parts)
    return rows


def baseline_rows(parts: RunParts, inputs: ChannelInputs) -> dict[str, System]:
    """Return the rows that need no training: BM25, dense, quantised dense, popularity."""
    cfg, catalogue = parts.cfg, parts.dataset.catalogue
    centroids = load_tokenizer(parts.inputs["sid"]).reconstruct(parts.index.table)
    reader = query_side(parts.embedder, cfg.sid.view)
    return {
        "bm25": fitted_channel("bm25", inputs),
        **dense_rows(cfg, parts.inputs["embed"], parts.embedder, catalogue.alive),
        "quantised-dense": QuantisedDense(centroids, parts.index.expand_with_source, reader),
        "popularity": fitted_channel("popularity", inputs),
    }


def tuned_dense_rows(parts: RunParts) -> dict[str, System]:
    """Return the rows of the encoder that ``sidar tune-dense`` has trained, where it has."""
    folder = parts.inputs.get("dense")
    if folder is None:
        return {}
    tuned = parts.cfg.embed.model_copy(update={"model": str(folder / "model")})
    encoder = load_embedder(tuned, parts.device)
    alive, how = parts.dataset.catalogue.alive, "encoder fine-tuned on the training rows"
    return {**dense_rows(parts.cfg, folder, encoder, alive, "dense-tuned", how)}


def plugin_rows(cfg: Config, inputs: ChannelInputs, taken: Collection[str]) -> dict[str, System]:
    """Return the channels that ``channels`` names, fitted; ``taken`` are names of other rows."""
    if twice := sorted(set(cfg.channels) & set(taken)):
        raise ValueError(f"channels: {twice[0]!r} is the name of another row; rename the channel")
    return {name: fitted_channel(name, inputs, cfg.channels[name]) for name in cfg.channels}


def generative_rows(parts: RunParts, models: Sequence[tuple[str, Path]]) -> dict[str, System]:
    """Return a row per trained model, by its name and folder, and its wider and reranked ones."""
    cfg, catalogue = parts.cfg, parts.dataset.catalogue
    sids = load_sids(parts.inputs["sid"] / "sids.parquet", catalogue.item_ids)
    reader = query_side(parts.embedder, cfg.sid.view).encode

    def row(name: str, model: Path, beam: int) -> GenerativeSystem:
        decode = cfg.decode.model_copy(update={"beam": beam})
        return GenerativeSystem(
            name, model, parts.index, sids, catalogue, decode, parts.device, reader
        )

    rows: dict[str, System] = {}
    for name, model in models:
        rows[name] = plain = row(name, model, cfg.decode.beam)
        if cfg.evaluate.wide_beam is not None:
            wide = f"{name}@{cfg.evaluate.wide_beam}"
            rows[wide] = row(wide, model, cfg.evaluate.wide_beam)
        if cfg.decode.rerank == "dense":
            encode = query_side(parts.embedder).encode
            reranked = Reranked(plain, encode, load_items(parts.inputs["embed"]))
            rows[reranked.name] = reranked
    return rows


def checkpoints(inputs: Mapping[str, Path], best: bool) -> list[tuple[str, Path]]:
    """Return row names and model folders: the final model of each trained stage and, with ``best``,
    its best one where that is another.
    """
    folders = []
    trained = {n: folder for n, folder in inputs.items() if n == "sft" or n.startswith("align-")}
    for stage, folder in trained.items():
        name = stage.removeprefix("align-")
        folders.append((name, folder / "model"))
        manifest = read_manifest(folder)
        if (
            best
            and manifest
            and manifest.shapes["best"].get("step") != manifest.shapes["final"].get("step")
        ):
            folders.append((f"{name}-best", folder / "best"))
    return folders


def wanted_systems(systems: Mapping[str, System], wanted: Sequence[str]) -> dict[str, System]:
    """Return the systems that ``evaluate.systems`` needs, as rows or in fusions; all where it names
    none, or one that there is not (which the suite refuses, with those that there are).
    """
    parts = [(name,) if name in systems else fusion_parts(name, systems) for name in wanted]
    if not parts or None in parts:
        return dict(systems)
    needed = {part for some in parts for part in some or ()}
    return {name: system for name, system in systems.items() if name in needed}


def tune_reranking(
    systems: Mapping[str, System], answers: AnswerRows, valid: Sequence[EvalSet], parts: RunParts
) -> None:
    """Choose the weights of reranked rows that have none yet."""
    cfg = parts.cfg
    for system in systems.values():
        if isinstance(system, Reranked) and system.weight is None:
            tune_on, most = answers.tuning_of(valid, cfg.evaluate.tune_queries)
            chosen = system.tune(tune_on, parts.dataset.catalogue, most)
            progress(f"{system.name}: weight {chosen['weight']:g}")
