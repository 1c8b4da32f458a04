"""Every option of ``sid`` reaches its object: the tokenizer that the config makes, its fit, and the
stage around it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_sid
import torch
from shops import shop

from sidar.config import AcrqConfig, CqSidConfig, RqVaeConfig, SarqConfig, SidConfig, TableConfig
from sidar.sid.stage import fit_catalogue
from sidar.sid.tokenizer import tokenizer_class, wants_queries
from sidar.sid.tokenizers import rqkmeans as rqkmeans_module
from sidar.types import SidInputs

SIZES = (12, 6, 4)


@cache
def items() -> SidInputs:
    """Items with categories, queries and Zipf counts, some of them cold."""
    made = shop(240).inputs
    counts = (300 / (1.0 + np.random.default_rng(0).permutation(240))).astype(int) - 1
    return SidInputs(
        made.vectors, made.categories, counts, made.query_vectors, made.query_item_pairs
    )


def sid(method: str, **options: Any) -> SidConfig:
    return SidConfig.model_validate({"method": method, **options})


def make(config: SidConfig, sizes: tuple[int, ...] = SIZES) -> Any:
    return tokenizer_class(config.method).from_config(config, sizes, 5, "cpu")


# --- k-means, SARQ, tables of others

KMEANS = {
    "iterations": 3,
    "init": "random",
    "restarts": 2,
    "sample": 7,
    "balance_last": True,
    "category_first": True,
}
SARQ = {
    "base": "acrq",
    "extra_levels": 1,
    "rule": "e1",
    "kappa": 0.25,
    "min_levels": 1,
    "budget": 8.5,
    "hysteresis": 0.75,
    "lengths": "shuffled",
}
TABLE = {
    "path": "ids.csv",
    "columns": {"item_id": "sku", "sid": "first,second"},
    "missing": "encode",
    "unknown": "error",
}


def assert_all_changed(values: dict[str, Any], section: Any) -> None:
    """Hold that ``values`` name every option of ``section``, each at another value than its
    default.
    """
    assert set(values) == set(type(section).model_fields)
    assert [name for name, value in values.items() if value == getattr(section, name)] == []


def test_options_of_k_means_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    kmeans = rqkmeans_module.kmeans

    def watched(points: torch.Tensor, k: int, **options: Any) -> torch.Tensor:
        asked.append(options)
        return kmeans(points, k, **options)

    monkeypatch.setattr(rqkmeans_module, "kmeans", watched)
    assert [name for name, value in KMEANS.items() if value == getattr(SidConfig(), name)] == []
    tokenizer = make(sid("rqkmeans", **KMEANS))
    assert {name: getattr(tokenizer, name) for name in KMEANS} == KMEANS
    tokenizer.fit(items())
    passed = ("iterations", "init", "restarts", "sample")
    for options in asked:
        assert {name: options[name] for name in passed} == {name: KMEANS[name] for name in passed}
    for name in ("balance_last", "category_first"):
        found = make(sid("rqkmeans", **{name: True})).fit(items()).encode_catalogue(items()).codes
        plain = make(sid("rqkmeans")).fit(items()).encode_catalogue(items()).codes
        column = 2 if name == "balance_last" else 0
        assert (found[:, column] != plain[:, column]).any()


def test_options_of_sarq_reach_it() -> None:
    assert_all_changed(SARQ, SarqConfig())
    tokenizer = make(sid("sarq", sarq=SARQ))
    names = ("rule", "kappa", "min_levels", "budget", "hysteresis", "lengths")
    assert {name: getattr(tokenizer, name) for name in names} | {
        "base": tokenizer.base.method,
        "extra_levels": len(tokenizer.base.codebook_sizes) - tokenizer.levels,
    } == SARQ


@pytest.mark.parametrize("kappa", [0.0, 0.5, 3.0])
def test_kappa_decides_the_lengths_as_by_hand(kappa: float) -> None:
    inputs = items()
    assert inputs.counts is not None
    options = {"kappa": kappa, "base": "rqkmeans"}
    tokenizer = make(sid("sarq", iterations=3, sarq=options), (6, 6, 6)).fit(inputs)
    full = tokenizer.base.encode(inputs).codes
    lengths = tokenizer.encode(inputs).lengths.tolist()
    assert lengths == reference_sid.sarq_lengths(full, inputs.counts, kappa, 2, tokenizer.tau_)


def test_options_of_a_table_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("sku,first,second\na,1,0\nb,0,2\n")
    values = TABLE | {"path": str(path)}
    assert_all_changed(values, TableConfig())
    config = sid("table", table=values, codebook_sizes=[4, 4], levels=2)
    tokenizer = make(config)
    assert (tokenizer.missing, tokenizer.unknown) == ("encode", "error")
    assert tokenizer.codebook_sizes == (4, 4)
    sids = tokenizer.fit(SidInputs(np.eye(2, dtype=np.float32), item_ids=["a", "b"])).table.codes
    assert sids.tolist() == [[1, 0], [0, 2]]


# --- what is trained

RQVAE: dict[str, Any] = {
    "hidden": [20],
    "latent": 5,
    "start": "random",
    "steps": 9,
    "batch_size": 48,
    "lr": 5e-3,
    "weight_decay": 0.9,
    "warmup": 0.5,
    "schedule": "constant",
    "clip": 1e-4,
    "beta": 1.5,
    "decay": 0.6,
    "dead_below": 0.9,
    "restart_every": 5,
    "progressive": True,
    "init_sample": 3,
    "precision": "bf16",
    "log_every": 3,
    "checkpoint_every": 12,
    "collapse_below": 1.0,
}
CQSID: dict[str, Any] = {
    "category": False,
    "contrast": False,
    "gamma": 0.5,
    "temperature": 0.9,
    "contrast_batch": 16,
    "contrast_on": "encoder",
    "max_queries": 17,
    "max_bucket": 9,
    "max_groups": 2,
}
ACRQ: dict[str, Any] = {
    "head_items": 0.5,
    "head_traffic": 0.4,
    "tail_steps": 7,
    "extension": 0.5,
    "handicap": 0.9,
    "anchor": "kl",
    "anchor_levels": 1,
    "anchor_start": 5.0,
    "anchor_end": 3.0,
    "usage": 0.8,
    "encoder_lr": 0.9,
    "transfer": True,
}
SECTIONS = {
    "rqvae": (RQVAE, RqVaeConfig()),
    "cqsid": (RQVAE | CQSID, CqSidConfig()),
    "acrq": (RQVAE | ACRQ, AcrqConfig()),
}
#: A fit of a moment, in which every option has something to do.
QUICK: dict[str, Any] = {
    "hidden": [16],
    "latent": 6,
    "steps": 12,
    "batch_size": 64,
    "restart_every": 3,
}
QUICK |= {"log_every": 4, "checkpoint_every": 4, "precision": "fp32"}
OF_METHOD: dict[str, dict[str, Any]] = {
    "rqvae": {},
    "cqsid": {"max_bucket": 3, "gamma": 0.1},
    "acrq": {"tail_steps": 12, "head_items": 0.2},
}


#: Options that have something to do beside others alone.
TOGETHER: dict[str, dict[str, Any]] = {
    "restart_every": {"dead_below": 0.9},
    "usage": {"extension": 0.5},
    "collapse_below": {
        "lr": 0.05,
        "decay": 0.9999,
        "dead_below": 0.0,
        "start": "random",
        "beta": 0.0,
        "steps": 40,
    },
}


def fitted(method: str, work: Path, **options: Any) -> Any:
    tokenizer = make(sid(method, **{method: QUICK | OF_METHOD[method] | options}))
    tokenizer.work = work
    return tokenizer.fit(items())


def trace(method: str, work: Path, **options: Any) -> dict[str, Any]:
    """What a fit leaves: its log, its weights, the SIDs of the catalogue, and the steps of its
    checkpoints.
    """
    tokenizer = fitted(method, work, **options)
    return {
        "log": json.dumps(tokenizer.history_),
        "weights": [tensor.tolist() for tensor in tokenizer._weights().values()],
        "sids": tokenizer.encode_catalogue(items()).codes.tolist(),
        "checkpoints": sorted(path.name for path in work.glob("**/step-*")),
    }


@pytest.mark.parametrize("method", SECTIONS)
def test_a_trained_tokenizer_has_every_option_of_its_section(method: str) -> None:
    values, section = SECTIONS[method]
    assert_all_changed(values, section)
    config = sid(method, **{method: values})
    options = make(config).options
    assert {name: getattr(options, name) for name in values} == values
    assert wants_queries(sid("cqsid", cqsid={"max_queries": 17})) == 17


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {method: trace(method, tmp_path_factory.mktemp(method)) for method in SECTIONS}


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        *(("rqvae", name, value) for name, value in RQVAE.items()),
        # of the stage
        *(("cqsid", name, value) for name, value in CQSID.items() if name != "max_queries"),
        *(("acrq", name, value) for name, value in ACRQ.items()),
    ],
)
def test_each_option_changes_the_fit(
    plain: dict[str, dict[str, Any]], tmp_path: Path, method: str, name: str, value: object
) -> None:
    beside = TOGETHER.get(name, {})
    before = trace(method, tmp_path / "before", **beside) if beside else plain[method]
    changed = trace(method, tmp_path / "changed", **beside, **{name: value})
    differs = {part for part in changed if changed[part] != before[part]}
    watched = {
        "log_every": {"log", "checkpoints"},
        "checkpoint_every": {"checkpoints"},
        "collapse_below": {"log"},
    }
    if name in watched:
        assert differs == watched[name]  # how a fit is watched changes nothing of what it makes
    elif name in ("max_bucket", "max_groups"):
        assert differs == {"sids"}
    else:
        assert differs >= {"log"} or differs >= {"weights"}
    if name == "checkpoint_every":
        assert changed["checkpoints"] == ["step-00000012"]


# --- what interrupted work belongs to


def identities(
    method: str, work: Path, inputs: SidInputs, sizes: tuple[int, ...] = SIZES, seed: int = 5
) -> list[Any]:
    """The identities that checkpoints of a fit of one step carry, stage by stage."""
    steps = {"steps": 1, "tail_steps": 1} if method == "acrq" else {"steps": 1}
    config = sid(method, **{method: QUICK | OF_METHOD[method] | steps})
    tokenizer = tokenizer_class(method).from_config(config, sizes, seed, "cpu")
    tokenizer.work = work
    tokenizer.fit(inputs)
    return [json.loads(path.read_text())["identity"] for path in sorted(work.glob("**/state.json"))]


@pytest.mark.parametrize("method", SECTIONS)
def test_interrupted_work_is_bound_to_every_option_and_input(tmp_path: Path, method: str) -> None:
    values, _ = SECTIONS[method]
    fitted(method, tmp_path / "options", **values)
    for path in (tmp_path / "options").glob("**/state.json"):
        bound = json.loads(path.read_text())["identity"]["config"]
        stage = {"steps": values["tail_steps"]} if "tail" in path.parts else {}
        assert bound == values | stage

    inputs, moved = items(), items().vectors.copy()
    moved[0, 0] += 1e-3
    assert inputs.counts is not None
    pairs, queries = np.asarray(inputs.query_item_pairs), np.asarray(inputs.query_vectors)
    others: dict[str, tuple[tuple[Any, ...], set[str]]] = {
        "vectors": ((replace(inputs, vectors=moved),), {"vectors"}),
        "sizes": ((inputs, (12, 6, 3)), {"codebook_sizes"}),
        "seed": ((inputs, SIZES, 6), {"seed"}),
    }
    if method == "cqsid":
        others["category"] = (
            (replace(inputs, categories=[["x"], *(inputs.categories or ())[1:]]),),
            {"first"},
        )
        others["queries"] = ((replace(inputs, query_vectors=queries[:, ::-1].copy()),), {"pairs"})
        others["pairs"] = ((replace(inputs, query_item_pairs=pairs[1:]),), {"pairs"})
    if method == "acrq":  # among items that are neither head nor cold
        few = np.flatnonzero(inputs.counts == 1)[0]
        counts = np.where(np.arange(len(inputs.counts)) == few, 2, inputs.counts)
        others["counts"] = ((replace(inputs, counts=counts),), {"popularity"})
    first = identities(method, tmp_path / "first", inputs)
    assert len(first) == (2 if method == "acrq" else 1)
    for name, (arguments, keys) in others.items():
        found = identities(method, tmp_path / name, *arguments)
        differs = {
            key
            for one, other in zip(first, found, strict=True)
            for key in one
            if one[key] != other[key]
        }
        # ACRQ's tail is also bound to the head's weights, which follow sizes, seed and vectors
        assert differs - {"frozen"} == keys


# --- the stage


def test_options_of_the_stage_decide_method_and_sizes() -> None:
    options = {"method", "levels", "codebook_sizes", "items_per_sid", *KMEANS}
    sections = {"table", "sarq", *SECTIONS}
    of_build = {"view", "keep_margin", "reference"}  # test_sid_inputs.py
    assert options | sections | of_build == set(SidConfig.model_fields)
    found = {
        name: fit_catalogue(SidConfig.model_validate(values), items(), 0)[1]
        for name, values in {
            "plain": {"method": "random"},
            "levels": {"method": "random", "levels": 2},
            "codebook_sizes": {"method": "random", "codebook_sizes": [7, 5, 2]},
            "items_per_sid": {"method": "random", "items_per_sid": 9.0},
        }.items()
    }
    assert {sids.method for sids in found.values()} == {"random"}
    assert (found["plain"].n_levels, found["levels"].n_levels) == (3, 2)
    assert found["codebook_sizes"].codebook_sizes == (7, 5, 2)
    assert np.prod(found["items_per_sid"].codebook_sizes) < np.prod(found["plain"].codebook_sizes)
