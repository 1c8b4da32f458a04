"""Where the kept artefacts are, and which requests the recordings ask of them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

HERE = Path(__file__).parent
PACKED = HERE / "fixtures"
RECORDED = HERE / "recorded"


def _unpacked() -> Path:
    """Unpack the archives of ``fixtures/`` into a folder that is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="sidar-golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for archive in sorted(PACKED.glob("*.zip")):
        with ZipFile(archive) as file:
            file.extractall(folder / archive.stem)
    shutil.copy(PACKED / "memory.key", folder / "memory.key")
    return folder


FIXTURES = _unpacked()
BUNDLE = FIXTURES / "bundle"  # fixed length, reranked by dense vectors, fused with a memory
VARIED = (
    FIXTURES / "bundle-varied"
)  # SIDs of several lengths, a model that starts at the geometry, no memory
SFT = FIXTURES / "sft"  # the SFT stage that the bundle was aligned from
FULL = (
    FIXTURES / "sft-full"
)  # an SFT stage of a Llama with adapters and one head over text and SIDs

QUERIES = [
    "frying pan",
    "black frying pan",
    "bath towel",
    "Bamboo  TOWEL, grey!",
    "water bottle",
    "insulated steel bottle 1 litre",
    "tent for two",
    "headphones",
    "wireless noise cancelling",
    "softdale cotton",
    "xyzzy",
    "",
]
PERSON: dict[str, Any] = {
    "history": ["T104", "T000", "no such item", "T302"],
    "profile": "30-44 house",
}

#: Name → what a search of the bundle is asked for beside the query.
BUNDLE_VARIANTS: dict[str, dict[str, Any]] = {
    "as made": {},
    "alone": {"fuse": "none"},
    "narrow beam": {"fuse": "none", "beam": 3, "k": 3},
    "exact": {"fuse": "none", "exact": True},
    "reranked": {"rerank": True},
    "not reranked": {"rerank": False},
    "person": PERSON,
    "person alone": {"fuse": "none", **PERSON},
    "memory, exact": {"fuse": "memory", "exact": True, "k": 64},
}
VARIED_VARIANTS: dict[str, dict[str, Any]] = {
    "as made": {},
    "narrow beam": {"beam": 3, "k": 3},
    "exact": {"exact": True},
    "person": PERSON,
}
CHECKPOINT_VARIANTS: dict[str, dict[str, Any]] = {
    "as made": {},
    "exact": {"exact": True},
    "person": PERSON,
}
SEARCHES = {
    "bundle": BUNDLE_VARIANTS,
    "bundle-varied": VARIED_VARIANTS,
    "sft": CHECKPOINT_VARIANTS,
    "sft-full": CHECKPOINT_VARIANTS,
}

#: Bodies of ``POST /v1/search``; the service answers from the bundle as ``first`` and the varied
#: one as ``second``.
HTTP: dict[str, dict[str, Any]] = {
    "plain": {"query": "bath towel"},
    "everything": {
        "query": "bath towel",
        "k": 4,
        **PERSON,
        "user_id": "u",
        "beam": 8,
        "exact": True,
        "explain": True,
    },
    "alone": {"query": "bath towel", "k": 3, "fuse": "none", "explain": True},
    "reranked": {"query": "bath towel", "k": 3, "rerank": True},
    "second": {"query": "bath towel", "k": 3, "model": "second", "explain": True},
    "no query": {},
    "unknown field": {"query": "x", "kk": 3},
    "out of range": {"query": "x", "k": 0},
    "unknown model": {"query": "x", "model": "third"},
    "no memory": {"query": "x", "model": "second", "fuse": "memory"},
    "no vectors": {"query": "x", "model": "second", "rerank": True},
    "both": {"query": "x", "fuse": "memory", "rerank": True},
}

#: Preference lists by catalogue rows (8 · shelf + place): tiers, an SID on both sides, no negative,
#: weights.
LISTS: list[dict[str, Any]] = [
    {"query": "frying pan", "positives": [0, 2], "tiers": [3, 1], "negatives": [1, 4, 30]},
    {"query": "black pan", "history": [8, 9], "positives": [5], "tiers": [1], "negatives": [3, 7]},
    {
        "query": "bath towel",
        "profile": "18-29 flat",
        "positives": [8, 12, 9],
        "tiers": [2, 1, 1],
        "negatives": [11],
    },
    {"query": "tent", "history": [40], "positives": [24], "tiers": [1], "negatives": []},
    {
        "query": "",
        "history": [17, 20, 16],
        "positives": [18, 19],
        "tiers": [1, 1],
        "negatives": [50, 16, 21],
    },
]
WEIGHTED: list[dict[str, Any]] = [
    LISTS[0] | {"weights": [2.0, 0.5]},
    LISTS[2] | {"weights": [1.0, 0.25, 3.0]},
]
#: Requests of free decoding and of the prompts' tokens.
REQUESTS: list[dict[str, Any]] = [
    {"query": "frying pan"},
    {"query": "softdale cotton", "history": [8, 40, 3], "profile": "30-44 house"},
    {"query": "", "history": [17]},
    {"query": "Steel Bottle " * 30, "history": [1, 2, 3, 4, 5, 6], "profile": "45-64"},
]

#: Tokenizer → options of ``sidar sid`` on the toy shop. ``sarq`` stands over an RQ-VAE in the
#: varied bundle.
NETWORK = {"hidden": [16], "latent": 8, "steps": 40}
TOKENIZERS: dict[str, list[str]] = {
    "rqkmeans": [],
    "rqvae": [f"sid.rqvae={json.dumps(NETWORK)}"],
    "cqsid": [f"sid.cqsid={json.dumps(NETWORK | {'max_bucket': 3})}"],
    "acrq": [f"sid.acrq={json.dumps(NETWORK | {'tail_steps': 20})}"],
    "sarq": [f"sid.rqvae={json.dumps(NETWORK | {'progressive': True})}", "sid.sarq.base=rqvae"],
    "random": [],
    "table": ["sid.table=ids.json", "sid.codebook_sizes=null"],
}
#: Overrides of the varied bundle's run.
VARIED_OVERRIDES = [
    *(
        "sid.method=sarq",
        "sid.sarq.base=rqvae",
        f"sid.rqvae={json.dumps(NETWORK | {'progressive': True})}",
    ),
    *("lm.geometry=true", "decode.fuse=none", "decode.rerank=none", "decode.item_share=uniform"),
]

#: Evaluation rows whose figures hold on any machine: no training stands behind them.
PORTABLE = ("bm25", "dense", "popularity", "memory", "bm25+dense", "bm25+dense+prior")

#: Commands that succeed on the toy run. ``{yaml}``, ``{run}`` and ``{bundle}`` are the toy run's,
#: ``{out}`` holds nothing but ``fewer.parquet``, the catalogue without its last items.
GOOD: dict[str, str] = {
    "no change": "run -c {yaml}",
    "dry run": "run -c {yaml} --dry-run seed=1",
    "validate": "validate -c {yaml} --dry-run",
    "embed": "embed -c {yaml} --dry-run",
    "sid": "sid -c {yaml} --dry-run",
    "sft": "sft -c {yaml} --dry-run",
    "align": "align -c {yaml} --dry-run align.objective=dpo",
    "index": "index -c {yaml}",
    "evaluate": "evaluate -c {yaml} --dry-run",
    "tune-dense": "tune-dense -c {yaml} --dry-run",
    "experiment": "experiment -c {yaml} --variants all --dry-run",
    "experiment, some": "experiment -c {yaml} --variants dpo+sft,raddpo-shuffled --dry-run",
    "bundle": "bundle -c {yaml} --to {out}/leaving --min-users 2",
    "search": "search 'bath towel' --bundle {bundle} --k 3",
    "search, exact": "search 'bath towel' --bundle {bundle} --exact --fuse none --beam 4",
    "search, reranked": "search 'bath towel' --bundle {bundle} --rerank",
    "memory show": "memory show 'bath towel' --bundle {bundle}",
    "memory show nothing": "memory show 'nobody asked this' --bundle {bundle}",
    "memory update": "memory update -c {yaml} --bundle {out}/leaving",
    "sids diff": "sids diff {run}/sid {run}/bundle --json",
    "sids export": "sids export {run} {out}/ids.json",
    "sids export, names": "sids export {run} {out}/ids.csv --form text --names s_a,s_b,s_c",
    "sids export, codes": "sids export {run} {out}/ids.jsonl --form codes",
    "sids import": "sids import {out}/ids.json {out}/imported.parquet --sizes 8,4,4",
    "sids alarms": "sids alarms {run} --json",
    "sids plan": "sids plan {bundle} {run} --json",
    "sids encode": "sids encode --from {bundle} -c {yaml} --out {out}/encoded name=today "
    "catalogue.path={out}/fewer.parquet events.unknown_items=drop",
    "sids compact": "sids compact {out}/encoded {out}/compact",
    "compare-sids": "compare-sids -c {yaml} --table mine={run}/sid/sids.parquet",
    "export": "export {bundle} {out}/hf",
    "grow": "grow {out}/grown --items 70 --catalogue {inputs}/catalogue.parquet",
    "init": "init {out}/new",
    "init, full": "init {out}/new-full --full",
    "init, schema": "init --schema",
    "doctor": "doctor --json",
}

#: Commands that the user can mend, and what their one line of error must name.
BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "no config": ("run -c {out}/none.yaml", ("none.yaml", "sidar init")),
    "unknown key": ("run -c {yaml} sft.stepz=3", ("sft.stepz",)),
    "unknown section": ("run -c {yaml} sfft.steps=3", ("sfft",)),
    "unknown nested key": ("sid -c {yaml} sid.rqvae.hiden=[8]", ("sid.rqvae.hiden",)),
    "wrong type": ("run -c {yaml} sft.steps=many", ("sft.steps",)),
    "out of range": ("run -c {yaml} decode.beam=0", ("decode.beam",)),
    "two faults": ("run -c {yaml} decode.beam=0 seed=x", ("decode.beam", "seed")),
    "no override": ("run -c {yaml} sft.steps", ("sft.steps", "key=value")),
    "unknown tokenizer": ("sid -c {yaml} sid.method=nope", ("sid.method", "nope", "rqkmeans")),
    "unknown objective": ("align -c {yaml} align.objective=nope", ("align.objective", "raddpo")),
    "levels and sizes": ("sid -c {yaml} sid.levels=4", ("sid.codebook_sizes", "sid.levels")),
    "two test days": ("run -c {yaml} split.test_day=-1 split.test_days=1", ("split.test_day",)),
    "terms of one tower": ("tune-dense -c {yaml} dense.match=mean", ("dense",)),
    "unknown variant": ("experiment -c {yaml} --variants nope", ("nope", "raddpo-no-tlgd")),
    "no catalogue": ("run -c {yaml} name=other catalogue.path=none.parquet", ("none.parquet",)),
    "init over a file": ("init {inputs}", ("sidar.yaml",)),
    "no bundle": ("search x --bundle {out}", ("sidar bundle",)),
    "fuse": ("search x --bundle {bundle} --fuse bm25", ("fuse", "bm25")),
    "fuse and rerank": ("search x --bundle {bundle} --fuse memory --rerank", ("rerank",)),
    "no items": ("search x --bundle {bundle} --k 0", ("k=0",)),
    "serve nothing": ("serve --bundle {out}", ("sidar bundle",)),
    "serve twice": ("serve --bundle {bundle} --bundle {bundle}", ("--bundle", "raddpo")),
    "min users": ("bundle -c {yaml} --min-users 2", ("--min-users", "--to")),
    "min users 0": ("bundle -c {yaml} --to {out}/x --min-users 0", ("min_users",)),
    "export elsewhere": ("sids export {run} {out}/ids.txt", ("ids.txt",)),
    "import elsewhere": ("sids import {run}/sid/sids.parquet {out}/x.csv", ("x.csv", ".parquet")),
    "sizes": ("sids import {run}/sid/sids.parquet {out}/x.parquet --sizes a", ("--sizes",)),
    "seeds": ("compare-sids -c {yaml} --seeds x", ("--seeds",)),
    "table": ("compare-sids -c {yaml} --table x", ("x", "name=path")),
    "unknown method": ("compare-sids -c {yaml} --methods nope", ("nope",)),
    "no diff": ("sids diff {out} {run}", ("{out}",)),
    "no query": ("memory show x --bundle {out}", ("sidar bundle",)),
}

#: Command lines that the parser refuses with a usage line.
USAGE: dict[str, str] = {
    "unknown command": "walk",
    "unknown option": "run --fast",
    "missing argument": "search",
    "wrong number": "search x --k many",
    "no switch": "export a b --no-hf",
    "unknown subcommand": "sids walk",
    "no command": "",
    "no subcommand": "memory",
}
