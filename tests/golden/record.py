"""Make the fixtures and recordings that the golden tests compare with.

    export PYTHONPATH=src:tests
    python tests/golden/record.py fixtures COMMIT   # artefacts, made by the code of COMMIT
    python tests/golden/record.py recordings        # answers, losses, structures, by this tree

Never run it to make a refactoring green: a golden test that fails says that a user would notice the
change.  Rerun ``recordings`` only where behaviour changes on purpose, in the commit that changes
it, and name in its message every recording that differs and why.  ``fixtures`` are older artefacts
on purpose; add new ones beside them when a format changes, and keep the old ones as long as they
are to be read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import yaml
from golden import answers, entry, kept, observe, toyrun
from golden.kept import HERE, RECORDED

ROOT = HERE.parents[1]
#: The config of the toy run: tiny, on one thread, without bf16.
TRAINING = {"precision": "fp32", "batch_size": 16}
SETTINGS: dict[str, Any] = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "users": {"path": "users.parquet"},
    "embed": {"model": "hashing:32", "dtype": "fp32"},
    "sid": {"codebook_sizes": [8, 4, 4]},
    "lm": {"backbone": "backbone", "max_prompt_tokens": 48},
    "sft": TRAINING
    | {
        "steps": 60,
        "validate_every": 30,
        "checkpoint_every": 30,
        "lr_pretrained": 3e-3,
        "lr_new": 3e-3,
    },
    "align": TRAINING
    | {
        "steps": 8,
        "validate_every": 4,
        "checkpoint_every": 4,
        "lr_pretrained": 1e-3,
        "lr_new": 1e-3,
    }
    | {"rdrw_window": 64},
    "decode": {"beam": 16, "rerank": "dense", "precision": "fp32"},
    "evaluate": {
        "invalid_queries": 2,
        "bootstrap": 50,
        "max_queries": 8,
        "sets": [
            {
                "name": "judged",
                "queries": "judged_test.queries.tsv",
                "qrels": "judged_test.qrels.tsv",
            },
            {
                "name": "dev",
                "queries": "judged_valid.queries.tsv",
                "qrels": "judged_valid.qrels.tsv",
                "role": "valid",
            },
        ],
    },
}


# ---------------------------------------------------------------------- fixtures


def make_fixtures(commit: str) -> None:
    """Write ``fixtures/`` with the code of ``commit``."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tree, shop = work / "tree", work / "shop"
        tree.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}

        def python(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], check=True, env=environment, cwd=shop)

        def sidar(command: str, *overrides: str) -> None:
            python("-m", "sidar", command, "-c", "sidar.yaml", *overrides)

        shop.mkdir()
        python("-c", "from sidar.data import toy; toy.write_inputs('.')")
        (shop / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
        (shop / "runs/shop").mkdir(parents=True)
        (shop / "runs/shop/memory.key").write_text("a secret of the golden tests\n")
        write_backbone(shop / "backbone", "qwen3")
        write_backbone(shop / "llama", "llama")
        sidar("run")
        python("-m", "sidar", "sids", "export", "runs/shop", "ids.json")
        for run in ("varied", "full", *kept.TOKENIZERS):
            for stage in ("data", "embed"):
                shutil.copytree(shop / "runs/shop" / stage, shop / "runs" / run / stage)
        sidar("bundle", "name=varied", *kept.VARIED_OVERRIDES)
        shutil.copytree(shop / "runs/shop/sid", shop / "runs/full/sid")
        sidar("sft", "name=full", "lm.backbone=llama", "lm.head=full", "lm.lora={r: 4, alpha: 8}")
        for method, overrides in kept.TOKENIZERS.items():
            sidar("sid", f"name={method}", f"sid.method={method}", *overrides)
        _keep(shop)


def _keep(shop: Path) -> None:
    """Pack what is kept of the finished runs, one archive per artefact."""
    shutil.rmtree(kept.PACKED, ignore_errors=True)
    kept.PACKED.mkdir()
    runs = shop / "runs"
    shutil.copy(runs / "shop/memory.key", kept.PACKED / "memory.key")
    pack("inputs", {path.name: path for path in shop.iterdir() if path.is_file()})
    pack("backbone", _files(shop / "backbone"))
    for name, run in (("bundle", "shop"), ("bundle-varied", "varied")):
        pack(name, _files(runs / run / "bundle"))
    for name, run in (("sft", "shop"), ("sft-full", "full")):
        stage = runs / run / "sft"
        pack(name, _files(stage / "model", "model/") | {"manifest.json": stage / "manifest.json"})
    tokenizers: dict[str, Path] = {}
    for method in kept.TOKENIZERS:
        tokenizers |= _files(runs / method / "sid", f"{method}/")
    unread = ("quality.json", "ledger.parquet", "reference.json")
    pack("sid", {name: path for name, path in tokenizers.items() if path.name not in unread})


def _files(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return ``{name in an archive: path}`` of the files below ``folder`` that are no pictures."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"]
    return {f"{prefix}{path.relative_to(folder)}": path for path in paths}


def pack(name: str, files: dict[str, Path]) -> None:
    """Write ``fixtures/<name>.zip``; the same files make the same bytes."""
    with ZipFile(kept.PACKED / f"{name}.zip", "w", ZIP_DEFLATED) as archive:
        for inside in sorted(files):
            member = ZipInfo(inside)
            member.compress_type = ZIP_DEFLATED
            archive.writestr(member, files[inside].read_bytes())


def write_backbone(folder: Path, family: str) -> None:
    """Save a random causal LM with a BPE tokenizer trained on the toy titles."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    from sidar.data import toy

    items = toy.catalogue()
    texts = [
        f"{t} {' '.join(c)}".lower()
        for t, c in zip(items.column("title"), items.column("category"), strict=True)
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=440,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>"
    )
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    model = (
        Qwen3ForCausalLM(Qwen3Config(**sizes))
        if family == "qwen3"
        else LlamaForCausalLM(LlamaConfig(**sizes))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------------- recordings


def record() -> None:
    """Write ``recorded/`` by the code of this tree, from the fixtures that are there."""
    RECORDED.mkdir(exist_ok=True)
    with observe.one_thread():
        write("machine", observe.machine())
        write("commands", observe.commands())
        write("yaml_keys", observe.yaml_keys())
        _record_templates()
        _record_artefacts()
        _record_losses()
        write("http", toyrun.http_answers())
        with tempfile.TemporaryDirectory() as name:
            run = toyrun.run_toy(Path(name) / "toy")
            write("run_structure", toyrun.run_structure(run))
            write("run_figures", toyrun.run_figures(run))
            (Path(name) / "out").mkdir()
            write("good_commands", toyrun.good_commands(run, Path(name) / "out"))


def _record_templates() -> None:
    with tempfile.TemporaryDirectory() as name:
        for option, file in ((), "init.yaml"), (("--full",), "init-full.yaml"):
            observe.call("init", name, *option)
            shutil.move(Path(name) / "sidar.yaml", RECORDED / file)


def _record_artefacts() -> None:
    exact: dict[str, Any] = {}
    figures: dict[str, np.ndarray] = {}
    tokens: dict[str, Any] = {}
    free: dict[str, np.ndarray] = {}
    for name in kept.SEARCHES:
        retriever = answers.retriever_of(name)
        exact[name] = {}
        for variant, answer in answers.answers(name, retriever).items():
            exact[name][variant] = {key: value for key, value in answer.items() if key[0] != "_"}
            figures |= {
                f"{name}|{variant}|{key[1:]}": value
                for key, value in answer.items()
                if key[0] == "_"
            }
            _warn_of_near_ties(f"{name}, {variant}", answer["_score"])
        tokens[name] = entry.prompt_tokens(retriever, kept.REQUESTS)
        free |= {f"{name}|{key}": value for key, value in answers.free(retriever).items()}
    write("answers", exact)
    write("prompt_tokens", tokens)
    np.savez_compressed(RECORDED / "answers.npz", **figures)
    np.savez_compressed(RECORDED / "free.npz", **free)
    write("levels", answers.beams_level_by_level(answers.retriever_of("bundle")))
    write("sid_codes", answers.tokenizer_codes())


def _warn_of_near_ties(where: str, scores: np.ndarray) -> None:
    """Print scores that nearly tie: another processor may order them otherwise."""
    gaps = -np.diff(scores, axis=1)
    for query, place in zip(*np.nonzero((gaps != 0) & (abs(gaps) < 2e-5)), strict=True):
        gap = f"{gaps[query, place]:.1e}"
        print(f"near tie: {where}, {kept.QUERIES[query]!r}, place {place + 1}: {gap}")


def _record_losses() -> None:
    names = entry.objective_names()
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {"names": names}
    for label, batch in answers.synthetic_batches().items():
        numbers[label], gradients = answers.losses_of_arrays(batch, names)
        arrays |= {f"{label}|input|{key}": value for key, value in batch.items()}
        arrays |= {f"{label}|gradient|{key}": value for key, value in gradients.items()}
    scores: dict[str, np.ndarray] = {}
    for name in kept.SEARCHES:
        retriever = answers.retriever_of(name)
        scores |= {
            f"{name}|{key}": value for key, value in answers.scores_of_model(retriever).items()
        }
        numbers[name] = answers.losses_of_model(retriever, names)
    np.savez_compressed(RECORDED / "batches.npz", **arrays)
    np.savez_compressed(RECORDED / "scores.npz", **scores)
    write("losses", numbers)


def write(name: str, value: Any) -> None:
    """Write a recording as JSON, one line per top-level key or element."""
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_compact(one)}" for key, one in value.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(map(_compact, value)) + "\n]\n"
    (RECORDED / f"{name}.json").write_text(text)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["fixtures"] and len(sys.argv) == 3:
        make_fixtures(sys.argv[2])
    elif sys.argv[1:] == ["recordings"]:
        record()
    else:
        sys.exit(__doc__)
