"""A folder of made-up cells with planted effects, for the tests of the evidence page."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from experiments.raddpo.report import read_evidence, registration_hash, write_tables
from experiments.raddpo.store import CELLS, VALUES, keep

SIMULATOR, LEXICON = "ab" * 32, "cd" * 32
RULES = {
    "registered": "2026-01-01",
    "simulator": {"hash": SIMULATOR, "lexicon": LEXICON},
    "bed": {
        "codebooks": [16, 8],
        "seeds": {"headline": 3, "other": 3},
        "requests": {"click": 240, "order": 60, "random": 60},
        "settings": {
            "lm": {"layers": 1},
            "sft": {"steps": 5},
            "align": {"steps": 5, "batch_size": 4, "item_share": 0.1},
            "preference": {"max_negatives": 3},
        },
    },
    "tuning": {
        "metric": "click.sid.mrr",
        "grid": {"raddpo": {"lr_new": [0.1], "beta": [1.0]}, "dpo": {"lr_new": [0.1]}},
    },
    "primary": {
        "system": "raddpo",
        "against": "sft-continued",
        "metrics": ["click.sid.mrr", "click.item.ndcg@10"],
        "alpha": 0.05,
    },
    "expected": {
        "sft": {"click": "-", "order": "-", "random": "-", "utility": "-", "why": "fewer rows"},
        "raddpo": {
            "click": "+",
            "order": "+",
            "random": "+",
            "utility": "0",
            "why": "negatives say something",
        },
        "dpo": {"click": "-", "order": "-", "random": "-", "utility": "-", "why": "no SFT term"},
        "simpo": {"click": "0", "order": "0", "random": "0", "utility": "0", "why": "small"},
        "orpo": {"click": "+", "order": "0", "random": "0", "utility": "0", "why": "a wrong guess"},
    },
    "claims": [
        {
            "id": "beats-sft",
            "text": "RAD-DPO beats SFT",
            "a": "raddpo",
            "b": "sft",
            "sign": "+",
            "paper": 0.0088,
        },
        {
            "id": "beats-sft-continued",
            "text": "RAD-DPO beats SFT-continued",
            "a": "raddpo",
            "b": "sft-continued",
            "sign": "+",
            "paper": None,
        },
        {
            "id": "beats-dpo",
            "text": "RAD-DPO beats DPO",
            "a": "raddpo",
            "b": "dpo",
            "sign": "+",
            "paper": 0.02,
        },
        {
            "id": "reverse",
            "text": "SimPO beats RAD-DPO",
            "a": "simpo",
            "b": "raddpo",
            "sign": "+",
            "paper": None,
        },
        {
            "id": "tlgd",
            "text": "TLGD helps",
            "a": "raddpo",
            "b": "raddpo-no-tlgd",
            "sign": "+",
            "paper": 0.0008,
        },
    ],
    "hallucination_order": ["sft", "raddpo", "orpo", "simpo", "dpo"],
}
#: Planted differences to SFT-continued on every day-8 measure.
EFFECTS = {
    "sft": -0.01,
    "sft-continued": 0.0,
    "raddpo": 0.02,
    "dpo": -0.03,
    "simpo": 0.0,
    "orpo": 0.0,
}
MASS = {
    "sft": 0.10,
    "sft-continued": 0.10,
    "raddpo": 0.14,
    "orpo": 0.18,
    "simpo": 0.22,
    "dpo": 0.30,
}
QUERIES, CLUSTERS = 240, 120


@dataclass(frozen=True)
class Planned:
    name: str
    system: str
    seed: int | None = None
    groups: tuple[str, ...] = ("table1",)
    axes: dict = field(default_factory=dict)


def day8_metrics():
    """Every measure of day 8 as cells name it."""
    sid, item = (
        ("mrr", "recall@8", "recall@64", "recall@128"),
        ("ndcg@10", "recall@10", "recall@100", "mrr"),
    )
    found = []
    for target in ("click", "order", "random"):
        found += [f"{target}.sid.{m}" for m in sid] + [f"{target}.item.{m}" for m in item]
        found.append(f"{target}.expected.ndcg@10")
    return [*found, "utility.sid.ndcg@10", "utility.item.ndcg@10"]


class Folder:
    """``root/registration.yaml``, ``root/results/raddpo/`` with queries, and in ``root/cells`` the
    single cells as they are added; :func:`fold` keeps them.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.results, self.rules = (
            root,
            root / "results" / "raddpo",
            root / "registration.yaml",
        )
        self.loose = root / "cells"
        self.results.mkdir(parents=True)
        self.loose.mkdir()
        self.rules.write_text(yaml.safe_dump(RULES, sort_keys=False))
        self.planned = []
        rng = np.random.default_rng(0)
        self.ids = {
            "day8": [f"r{i}" for i in range(QUERIES)],
            "judged_test": [f"j{i}" for i in range(60)],
            "grounded_test": [f"g{i}" for i in range(90)],
        }
        rows = [
            {"set": name, "query_id": i, "query": f"q{n % CLUSTERS}", "cluster": f"q{n % CLUSTERS}"}
            for name, ids in self.ids.items()
            for n, i in enumerate(ids)
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.results / "queries.parquet")
        # What is hard is hard for every system: the pairing has to take it out.
        self.difficulty = {name: rng.uniform(0.2, 0.7, len(ids)) for name, ids in self.ids.items()}

    def add(
        self,
        system,
        seed=None,
        *,
        effect=None,
        axis=None,
        kind="align",
        noise_sd=0.05,
        groups=("table1",),
        mass=None,
        held_out=True,
        **change,
    ):
        """Write one cell: per-query value = difficulty + effect + noise. Returns its name."""
        name = system + (f"@{axis}" if axis else "") + ("" if seed is None else f".s{seed}")
        rng = np.random.default_rng(hash_of(name))
        effect = EFFECTS.get(system, 0.0) if effect is None else effect
        tables = []
        sets = ["day8", *(["judged_test", "grounded_test"] if held_out else [])]
        item = ("ndcg@10", "rprec", "recall@10", "recall@100", "mrr")
        other = [
            *(f"item.{m}" for m in item),
            *(f"sid.{m}" for m in ("mrr", "recall@8", "recall@64", "recall@128")),
        ]
        fused = ["fused.item.ndcg@10", "fused.item.recall@100"] if kind in ("sft", "align") else []
        invalid = (
            [f"invalid.{m}" for m in ("mass", "free@10", "free@128", "not_code@10")]
            if fused
            else []
        )
        names = [*day8_metrics(), *other, *fused, *invalid]
        for set_name in sets:
            n = len(self.ids[set_name])
            columns = {m: np.full(n, np.nan, np.float32) for m in names}
            here = day8_metrics() if set_name == "day8" else [*other, *fused]
            for m in here:
                part = (
                    slice(None)
                    if m.startswith(("click", "utility")) or set_name != "day8"
                    else slice(0, 60)
                )
                value = self.difficulty[set_name] + effect + rng.normal(0, noise_sd, n)
                columns[m][part] = value[part]
            if set_name == "day8":
                for i, m in enumerate(invalid):
                    base = MASS.get(system, 0.15) if mass is None else mass
                    columns[m][:24] = base * (1 - i / 4) + rng.normal(0, 0.01, 24)
            tables.append(
                pa.table({"set": [set_name] * n, "query_id": self.ids[set_name], **columns})
            )
        pq.write_table(pa.concat_tables(tables), self.loose / f"{name}.parquet")
        axes = {
            "n": 3,
            "noise": 0.0,
            "sids": "16/8",
            "size": "3x384",
            "head": "level",
            "lists": 2400,
            "beta": 2.0,
        }
        if axis:
            key, _, value = axis.partition("=")
            axes[key] = value.replace("-", "/") if key == "sids" else value
        facts = {
            "version": 1,
            "cell": name,
            "system": system,
            "kind": kind,
            "parent": None if kind != "align" else f"sft.s{seed}",
            "seed": seed,
            "groups": list(groups),
            "axes": axes if kind in ("sft", "align") else {},
            "bed": {"simulator": SIMULATOR, "lexicon": LEXICON, "lists": "1", "sids": "2"},
            "registration": registration_hash(self.rules),
            "commit": "0123456789abcdef",
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "device": {"cpu": "made up", "used": "cpu"},
            "seconds": {"train": 10.0, "score": 5.0, "mechanism": 1.0},
            "figures": {},
            "mechanism": mechanism(rng) if kind in ("sft", "align") else {},
            "train": {"gradient_ratio": 0.3, "oscillation": 0.01} if kind == "align" else {},
        }
        (self.loose / f"{name}.json").write_text(json.dumps({**facts, **change}))
        self.plan(name, system, seed, groups)
        return name

    def plan(self, name, system, seed=None, groups=("table1",)):
        self.planned.append(Planned(name, system, seed, tuple(groups)))


def hash_of(text):
    """The same number for a name in every process."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def mechanism(rng):
    found = {}
    for state in ("eos_out", "last_code", "item_vector"):
        found |= {
            f"rdrw/{state}/{k}": v
            for k, v in zip(("q25", "q50", "q75"), (0.2, 0.4, 0.6), strict=True)
        }
        mean = 0.62 + rng.normal(0, 0.01)
        found |= {
            f"rdrw/{state}/auc": mean,
            f"rdrw/{state}/auc_low": mean - 0.03,
            f"rdrw/{state}/auc_high": mean + 0.03,
        }
        found |= {f"rdrw/{state}/weight_pseudo": 0.68, f"rdrw/{state}/weight_true": 0.77}
    found |= {
        "auc/prefix": 0.55,
        "auc/prefix_low": 0.49,
        "auc/prefix_high": 0.61,
        "contrast/push": 0.4,
    }
    for k in ("star", "others", "negatives", "pseudo", "unrelated", "top", "entropy"):
        change = rng.normal(-0.3, 0.05)
        found |= {
            f"squeeze/{k}_change": change,
            f"squeeze/{k}_change_low": change - 0.1,
            f"squeeze/{k}_change_high": change + 0.1,
        }
    return found | {
        "pairs/count": 900.0,
        "pairs/pseudo": 0.3,
        "pairs/separable": 0.7,
        "pairs/shared1": 0.35,
        "pairs/shared2": 0.02,
    }


def main_cells(folder, *, seeds=3):
    """The main table with its planted effects, baselines and ceilings."""
    for seed in range(seeds):
        folder.add("sft", seed, kind="sft")
        for system in ("sft-continued", "raddpo", "dpo", "simpo", "orpo"):
            folder.add(system, seed)
    for name in ("bm25", "dense", "dense-tuned", "bm25+dense", "bm25+dense-tuned", "popularity"):
        folder.add(name, kind="baseline", groups=("baselines",), effect=-0.05)
    folder.add("oracle-sid", kind="ceiling", groups=("baselines",), effect=0.25)
    return folder


def fold(folder):
    """Make the kept cells of ``folder`` anew from its single cells."""
    for name in (CELLS, VALUES):
        (folder.results / name).unlink(missing_ok=True)
    copies = folder.root / "copies"
    shutil.copytree(folder.loose, copies)
    keep(copies, folder.results)
    copies.rmdir()


def read(folder):
    fold(folder)
    return read_evidence(folder.results, folder.rules, folder.planned)


def write(folder):
    """The tables as Markdown and HTML, written into ``folder.root/report``."""
    fold(folder)
    out = folder.root / "report"
    markdown = write_tables(folder.results, out, registration=folder.rules, planned=folder.planned)
    return markdown, (out / "tables.html").read_text()
