"""The SFT stage: teach the language model to write SIDs (RAD-DPO eq. 1).

Three kinds of rows are mixed (docs/methods/sft.md): an item's text → its SID, pseudo-queries → the
SID that they were made from, and logged queries with history and profile → the SIDs of everything
that was clicked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sidar.align import multi_label_sft
from sidar.config import Config
from sidar.lm.model import SidLM
from sidar.lm.packing import Packed, score
from sidar.lm.prompts import PromptBuilder
from sidar.precision import resolve_device, used_precision
from sidar.sid import load_tokenizer
from sidar.train.examples import Example, LogStream, PseudoStream, Stream
from sidar.train.inputs import Inputs, binding, hash_of
from sidar.train.loop import Fit, Outcome, fit
from sidar.train.order import Draw, Order, Pools
from sidar.train.stage import finish
from sidar.train.validate import Validator
from sidar.train.vectors import attach

#: An epoch that no run reaches: its pseudo-queries are worded unlike any that is trained on.
UNSEEN_EPOCH = 1 << 40


class SftTask:
    """SFT over a mixture of streams (see :class:`sidar.train.loop.Task`)."""

    def __init__(
        self,
        model: SidLM,
        streams: dict[str, Stream],
        shares: dict[str, float],
        validator: Validator,
        *,
        positives: str,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model = model
        self._streams, self._validator, self._positives = streams, validator, positives
        self.order = Order({name: len(s) for name, s in streams.items()}, shares, batch_size, seed)
        self._pools = Pools(self.order, self._prepare, lambda x: x.length)

    def _prepare(self, draws: list[Draw]) -> list[Example]:
        examples: list[Example] = []
        for name, stream in self._streams.items():
            chosen = [(index, epoch) for source, index, epoch in draws if source == name]
            examples += stream.examples(chosen) if chosen else []
        return examples

    def batch(self, step: int) -> list[Example]:
        self.model.train()
        return self._pools.batch(step)

    def forward(self, packed: Packed, is_list: Tensor) -> Outcome:
        scores = score(self.model, packed)
        return Outcome(multi_label_sft(scores, "flat" if self._positives == "flat" else "mean"))

    def validate(self) -> dict[str, float]:
        return self._validator(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state  # nothing but the step matters

    def earlier_models(self) -> dict[str, SidLM]:
        return {}


def train_sft(
    cfg: Config,
    data_folder: Path,
    embed_folder: Path | None,
    sid_folder: Path,
    out: Path,
    *,
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train ``cfg.lm`` on ``cfg.sft`` and write ``model/`` (final), ``best/``, ``log.jsonl``,
    ``tensorboard/``, ``fit.png``.

    Interrupted work is kept in ``work`` (default: ``.<stage>.work`` beside ``out``) and continued
    by the next call. ``embed_folder`` is read for ``lm.geometry`` alone: item texts have their
    items' vectors (None: encoded again). Returns a report with ``summary`` and ``shapes``.  Raises
    ``ValueError`` where nothing can be trained on, or the interrupted work is of another config or
    other inputs.
    """
    sft = cfg.sft
    inputs = Inputs.open(Path(data_folder), Path(sid_folder))
    if inputs.index.n_sids == 0:
        raise ValueError(
            f"{sid_folder} assigns no item an SID, so there is nothing to learn; run sidar sid "
            "again"
        )
    model = start_model(cfg, inputs, Path(sid_folder))
    device = resolve_device(cfg.device)
    vectors = attach(model, cfg, inputs.data, inputs.index, embed_folder, device)
    builder = model.prompts
    logged = LogStream(inputs.data.sft(), inputs.sids, builder, max_positives=sft.max_positives)
    pseudo = inputs.pseudo(builder, cfg.seed, sft.max_positives)
    streams: dict[str, Stream] = {
        "item": inputs.items(cfg.embed.fields, builder, vectors),
        "pseudo": pseudo,
        "query": logged,
    }
    valid = _validation_examples(cfg, inputs, builder, logged, pseudo)
    task = SftTask(
        model,
        streams,
        {str(name): share for name, share in sft.mixture.items()},
        Validator(valid, inputs.index, beam=sft.valid_beam, precision=sft.precision),
        positives=sft.positives,
        batch_size=sft.batch_size,
        seed=cfg.seed,
    )
    identity: dict[str, object] = {
        "stage": "sft",
        "seed": cfg.seed,
        "sft": binding(sft),
        "lm": cfg.lm.model_dump(mode="json"),
        "fields": cfg.embed.fields,
        "data": hash_of(Path(data_folder), ["sft.parquet", "lists.parquet", "catalogue.arrow"]),
        "sid": hash_of(Path(sid_folder), ["sids.parquet", "codebooks.safetensors"]),
        "warm_start": cfg.warm_start,
    }

    def train(folder: Path) -> Fit:
        return fit(
            task,
            sft,
            seed=cfg.seed,
            device=device,
            work=folder,
            identity=identity,
            title="sft",
            progress=progress,
        )

    facts: dict[str, object] = {
        "streams": {name: len(stream) for name, stream in streams.items()},
        "requests_without_sid": logged.dropped,
        "valid_examples": len(valid),
        "precision": used_precision(device, sft.precision),
    }
    return finish(train, task.model, Path(out), work, facts)


def _validation_examples(
    cfg: Config,
    inputs: Inputs,
    builder: PromptBuilder,
    logged: LogStream,
    pseudo: PseudoStream,
) -> list[Example]:
    """Return the lists of the validation day; without a log, words in an order that training never
    draws.
    """
    sft = cfg.sft
    valid = inputs.valid_lists(
        builder, sft.valid_requests, sft.max_positives, cfg.preference.max_negatives
    )
    if valid or len(logged):
        return valid
    spread = range(0, len(pseudo), max(1, len(pseudo) // max(sft.valid_requests, 1)))
    return pseudo.examples([(i, UNSEEN_EPOCH) for i in spread][: sft.valid_requests])


def start_model(cfg: Config, inputs: Inputs, sid_folder: Path) -> SidLM:
    """The model that SFT starts from: built for this SID table, or the bundle's of a warm start.

    Raises ``ValueError`` when the bundle's model writes other codebooks than the table's.
    """
    if cfg.warm_start:
        model = SidLM.from_pretrained(Path(cfg.warm_start) / "model")
        model.vocab.check_fits(inputs.sids, f"the model of {cfg.warm_start}")
        return model
    return SidLM.build(
        cfg.lm, inputs.sids, codebooks=load_tokenizer(sid_folder).codebooks_, seed=cfg.seed
    )
