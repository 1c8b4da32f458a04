"""Slow twins and shared small worlds of the simulator's tests."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from sidar.data import sample
from sidar.data.catalogue import found
from sidar.simulate import SimulatorConfig, load_config, run
from sidar.simulate.facts import Facts, read_facts
from sidar.simulate.intents import Intent
from sidar.simulate.lexicon import load_lexicon
from sidar.types import CATALOGUE_SCHEMA, Catalogue


def small_config(**changes) -> SimulatorConfig:
    return load_config(
        "demo", **({"users": 150, "requests": 1600, "queries": {"count": 300}} | changes)
    )


@functools.cache
def sample_facts() -> Facts:
    return read_facts(sample.load_catalogue(), load_lexicon())


@functools.cache
def small_log() -> Path:
    """One small simulated log over the embedded sample, made once per test session."""
    folder = Path(tempfile.mkdtemp(prefix="simulated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(sample.load_catalogue(), small_config(), folder)
    return folder


def shop(*items: dict) -> Catalogue:
    """A catalogue of hand-written items; ``colour`` and ``ratings`` go into the attributes."""
    rows = []
    for number, item in enumerate(items):
        item = dict(item)
        attributes = {"color": item.pop("colour", None), "rating_count": item.pop("ratings", None)}
        blank = dict.fromkeys(CATALOGUE_SCHEMA.names)
        blank |= {
            "item_id": f"i{number}",
            "category": [],
            "text": "",
            "in_stock": True,
            "alive": True,
        }
        rows.append(
            blank
            | item
            | {"attributes": json.dumps({k: v for k, v in attributes.items() if v is not None})}
        )
    return found(pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA))


def judge_slowly(intent: Intent, facts: Facts) -> dict[int, float]:
    """The rule of ``sidar.simulate.intents`` item by item over the whole catalogue, without a bound
    on related ones.
    """
    grades = {}
    for row, nouns in enumerate(facts.nouns):
        missing = [fact for fact in intent.constraints if fact not in facts.facts[row]]
        if intent.noun in nouns:
            if not missing:
                grades[row] = 1.0
            elif len(missing) == 1 and missing[0][0] != "audience":
                grades[row] = 0.1
            else:
                grades[row] = 0.01
        elif not missing and any(_same_family(noun, intent.noun, facts) for noun in nouns):
            grades[row] = 0.01
    return grades


def _same_family(a: str, b: str, facts: Facts) -> bool:
    return facts.family[a] == facts.family[b] and len(facts.family[a]) >= 2


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
