"""S1, S2 and S3 of progressive training (docs/progressive.md): each continues the model before it.

S1 teaches title → SID, S2 query → several SIDs in one answer, S3 profile, history and query → SIDs
[source: N1]. S4 is the alignment stage (:mod:`sidar.train.align`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidar.config import Config, OptimConfig
from sidar.index import PrefixIndex
from sidar.lm.candidates import in_one_answer
from sidar.lm.model import SidLM
from sidar.lm.prompts import PromptBuilder
from sidar.precision import resolve_device, used_precision
from sidar.train.examples import Example, LogStream, Stream
from sidar.train.inputs import Inputs, binding, hash_of
from sidar.train.loop import Fit, fit
from sidar.train.sft import SftTask, start_model
from sidar.train.stage import finish
from sidar.train.validate import Validator
from sidar.train.vectors import attach
from sidar.types import Prompt, SemanticIds

#: Stream of random numbers of the answers.
_ANSWERS = 7


class AnswerStream:
    """Logged queries → several SIDs in one answer: of what all requests of the query chose.

    A draw takes at most ``count`` different SIDs, without replacement, in proportion to how often
    their items were clicked or bought under that query. Every epoch draws others.
    """

    def __init__(
        self,
        table: pa.Table,
        sids: SemanticIds,
        index: PrefixIndex,
        builder: PromptBuilder,
        seed: int,
        count: int,
    ) -> None:
        """``table`` has the columns of sft.parquet; requests without text, or without an SID among
        what they chose, are left out.
        """
        self._sids, self._index, self._builder = sids, index, builder
        self._seed, self._count = seed, count
        number = index.lookup(sids.codes)  # (N,) SID of each row, −1 = none
        chosen: dict[str, list[np.ndarray]] = {}
        asked: list[str] = []
        columns = (table.column(name).to_pylist() for name in ("query", "positives"))
        for query, rows in zip(*columns, strict=True):
            right = number[np.asarray(rows, np.int64)]
            right = np.unique(right[right >= 0])
            if query and len(right):
                asked.append(query)
                chosen.setdefault(query, []).append(right)
        self._asked = asked
        self._pool = {
            query: np.unique(np.concatenate(parts), return_counts=True)
            for query, parts in chosen.items()
        }

    def __len__(self) -> int:
        return len(self._asked)

    def examples(self, draws: Sequence[tuple[int, int]]) -> list[Example]:
        queries = [self._asked[index] for index, _ in draws]
        prompts = self._builder.encode_batch([Prompt(q) for q in queries], self._sids)
        made = []
        for (index, epoch), query, prompt in zip(draws, queries, prompts, strict=True):
            answer = [self._codes(sid) for sid in self._draw(query, index, epoch)]
            made.append(Example(*in_one_answer(prompt, answer, self._builder.vocab)))
        return made

    def _draw(self, query: str, index: int, epoch: int) -> list[int]:
        sids, counts = self._pool[query]
        rng = np.random.default_rng([self._seed, _ANSWERS, index, epoch])
        size = min(self._count, len(sids))
        drawn = rng.choice(sids, size=size, replace=False, p=counts / counts.sum())
        return [int(sid) for sid in drawn]

    def _codes(self, sid: int) -> tuple[int, ...]:
        return tuple(int(code) for code in self._index.table[sid] if code >= 0)


def train_progressive(
    cfg: Config,
    name: str,
    data_folder: Path,
    embed_folder: Path,
    sid_folder: Path,
    start: Path | None,
    out: Path,
    *,
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train stage ``name`` (s1, s2 or s3) from the final model of the stage in ``start``.

    None starts as SFT does: from ``lm``, or from the bundle of a warm start. Writes what
    ``train_sft`` writes and returns such a report. Raises ``ValueError`` where the stage has
    nothing to train on, and for S2 of a model that reads sentence vectors.
    """
    options: OptimConfig = getattr(cfg.progressive, name)
    inputs = Inputs.open(data_folder, sid_folder)
    model = _start(cfg, name, inputs, sid_folder, start)
    device = resolve_device(cfg.device)
    vectors = attach(model, cfg, inputs.data, inputs.index, embed_folder, device)
    stream = _stream(cfg, name, inputs, model.prompts, vectors)
    lists = inputs.data.lists("valid")
    valid = inputs.valid_lists(
        model.prompts,
        options.valid_requests,
        cfg.sft.max_positives,
        cfg.preference.max_negatives,
        lists if name == "s3" else query_alone(lists),
    )
    task = SftTask(
        model,
        {name: stream},
        {name: 1.0},
        Validator(valid, inputs.index, beam=options.valid_beam, precision=options.precision),
        positives="mean",
        batch_size=options.batch_size,
        seed=cfg.seed,
    )
    identity: dict[str, object] = {
        "stage": f"progressive-{name}",
        "seed": cfg.seed,
        "options": binding(options),
        "lm": cfg.lm.model_dump(mode="json"),
        "data": hash_of(data_folder, ["sft.parquet", "lists.parquet", "catalogue.arrow"]),
        "sid": hash_of(sid_folder, ["sids.parquet", "codebooks.safetensors"]),
        "start": cfg.warm_start if start is None else hash_of(start, ["model/model.safetensors"]),
    }

    def train(folder: Path) -> Fit:
        return fit(
            task,
            options,
            seed=cfg.seed,
            device=device,
            work=folder,
            identity=identity,
            title=f"progressive {name}",
            validate_first=start is not None,
            progress=progress,
        )

    facts: dict[str, object] = {
        "rows": len(stream),
        "valid_examples": len(valid),
        "precision": used_precision(device, options.precision),
    }
    return finish(train, task.model, out, work, facts)


#: What each stage trains on.
_WANTS = {
    "s1": "products with a title and an SID",
    "s2": "logged queries with chosen items",
    "s3": "logged requests with chosen items",
}


def _start(cfg: Config, name: str, inputs: Inputs, sid_folder: Path, start: Path | None) -> SidLM:
    """Return the model that a stage continues, or a new one."""
    if start is None:
        model = start_model(cfg, inputs, sid_folder)
    else:
        model = SidLM.from_pretrained(start / "model")
        model.vocab.check_fits(inputs.sids, f"the model of {start}")
    if name == "s2" and model.geometry is not None and cfg.progressive.s2.sids > 1:
        raise ValueError(
            "progressive.stages: s2 teaches several SIDs behind one query, and a model with "
            "lm.geometry reads its sentence vector once; set progressive.s2.sids: 1, or leave s2 "
            "out"
        )
    return model


def _stream(
    cfg: Config, name: str, inputs: Inputs, builder: PromptBuilder, vectors: np.ndarray | None
) -> Stream:
    """Return what a stage trains on; all of it is of training days. ``ValueError`` where there is
    nothing.
    """
    logged = inputs.data.sft()
    stream: Stream
    if name == "s1":
        stream = inputs.items(["title"], builder, vectors)
    elif name == "s2":
        count = cfg.progressive.s2.sids
        stream = AnswerStream(logged, inputs.sids, inputs.index, builder, cfg.seed, count)
    else:
        stream = LogStream(logged, inputs.sids, builder, max_positives=cfg.sft.max_positives)
    if not len(stream):
        raise ValueError(f"progressive.stages: {name} has nothing to train on; want {_WANTS[name]}")
    return stream


def query_alone(table: pa.Table) -> pa.Table:
    """Return logged requests that have text, without history and profile: what S1 and S2 know."""
    table = table.filter(pc.field("query") != "")
    for name, empty in (("history", []), ("profile", "")):
        place = table.column_names.index(name)
        column = pa.array([empty] * table.num_rows, table.schema.field(place).type)
        table = table.set_column(place, name, column)
    return table
