"""What an SID artefact tells of its fit: how training went, what collapsed, what the user should
know.
"""

from __future__ import annotations

from pathlib import Path

from sidar.sid.autoencoders.fit_picture import draw_fit
from sidar.sid.collapse import BELOW, collapsed, usable_codes, warning
from sidar.sid.quality import count_distinct
from sidar.sid.tokenizer import Tokenizer
from sidar.types import Json, SemanticIds, SidInputs


def describe_fit(tokenizer: Tokenizer, sids: SemanticIds, inputs: SidInputs, out: Path) -> Json:
    """Entries for ``quality.json``; also draws ``fit.png`` into ``out`` where there was a training.

    ``fit``: steps, restarts and the last record of the log; ``collapse``: levels that collapsed,
    with the ``remedy``; ``notes``: what the tokenizer said of its input. What does not apply is
    left out.
    """
    entries: Json = {}
    trained = tokenizer.trained_part()
    records = [] if trained is None else [record for record in trained.history_ if "loss" in record]
    if trained is not None and records:
        restarts = sum(record["restarts"] for record in records)
        entries["fit"] = {**records[-1], "steps": records[-1]["step"], "restarts": restarts}
        draw_fit(trained.history_, out / "fit.png", trained.method)
    below = BELOW if trained is None else trained.collapse_below
    levels = collapsed(
        sids.codes,
        sids.codebook_sizes,
        usable_codes(tokenizer),
        count_distinct(inputs.vectors),
        below=below,
    )
    if levels:
        kind = (
            "trained" if trained is not None else "given" if tokenizer.has_own_sizes else "k-means"
        )
        method = tokenizer.method if trained is None else trained.method
        entries["collapse"] = [{**level, "says": warning(level, method, kind)} for level in levels]
    if notes := all_notes(tokenizer):
        entries["notes"] = notes
    return entries


def all_notes(tokenizer: Tokenizer) -> list[str]:
    """What the tokenizer and those that it is built over have to say to the user."""
    return [note for part in tokenizer.chain() for note in part.notes_]


def spoken(entries: Json) -> str:
    """The end of the stage's summary: warnings and notes, each on a line of its own."""
    warnings = [f"WARNING: {level['says']}" for level in entries.get("collapse", [])]
    return "".join(f"\n{line}" for line in [*warnings, *entries.get("notes", [])])
