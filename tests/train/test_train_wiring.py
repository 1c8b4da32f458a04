"""What each training stage reads, and what it makes of the config: rows, limits, models,
identities.

The stages run as the pipeline calls them. Each request of the log names its split in its query, and
the training loop is watched or, where only what it was given matters, replaced by a stop.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from reference_lm import score_one
from tiny_encoder import save_tiny_encoder
from toy_stages import MARKS, build_shop, config
from toy_train import write_backbone

import sidar.train.align as align_stage
import sidar.train.encoder.dense as dense_stage
import sidar.train.loop as loop
import sidar.train.sft as sft_stage
import sidar.train.validate as validate
from sidar.artifacts import read_manifest, write_artifact
from sidar.config import (
    AlignConfig,
    Config,
    DenseConfig,
    EmbedConfig,
    LmConfig,
    OptimConfig,
    PreferenceConfig,
    SftConfig,
)
from sidar.data import open_dataset
from sidar.lm import SidLM
from sidar.lm.packing import pack
from sidar.lm.prompts import TEMPLATES
from sidar.train import train_align, train_dense, train_sft
from sidar.train.inputs import hash_of

#: Settings that an interrupted run may change: they decide what is written down.
FREE = {"log_every", "checkpoint_every", "keep_checkpoints", "label"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy shop whose queries name their split, with a model that SFT has trained for a moment in
    ``sft/``.
    """
    folder = build_shop(tmp_path_factory.mktemp("marked"), marked=True)
    cfg = config(folder / "inputs", sft={"steps": 1})
    train_sft(cfg, folder / "data", None, folder / "sid", folder / "sft", progress=False)
    shutil.rmtree(folder / "sft" / "best")  # alignment starts from the final model
    return folder


def run_sft(shop: Path, cfg: Config, out: Path, **kwargs: Any) -> dict[str, Any]:
    return train_sft(cfg, shop / "data", None, shop / "sid", out, progress=False, **kwargs)


def run_align(shop: Path, cfg: Config, out: Path, **kwargs: Any) -> dict[str, Any]:
    return train_align(
        cfg, shop / "data", shop / "sid", shop / "sft", out, progress=False, **kwargs
    )


STAGES = {"sft": (sft_stage, run_sft), "align": (align_stage, run_align)}


# --- which split


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_on_training_requests_and_validates_on_those_of_the_validation_day(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokens: dict[str, list[list[int]]] = {"trained": [], "scored": [], "searched": []}

    def watch(module: ModuleType, function: str, kept: list[list[int]], place: int) -> None:
        original = getattr(module, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            kept.extend(args[place])
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, watched)

    watch(loop, "pack", tokens["trained"], 0)
    watch(validate, "pack", tokens["scored"], 0)
    watch(validate, "beam_search", tokens["searched"], 1)
    few = {"steps": 4, "batch_size": 32, "validate_every": 4}
    STAGES[name][1](shop, config(shop / "inputs", sft=few, align=few), tmp_path / name)

    model = SidLM.from_pretrained(shop / "sft" / "model")
    splits = {kind: [split_of(model, prompt) for prompt in some] for kind, some in tokens.items()}
    assert set(splits["trained"]) == {"train", None}  # None: item texts and pseudo-queries
    assert splits["trained"].count("train") > 20
    assert set(splits["scored"]) == {"valid"}
    assert set(splits["searched"]) == {"valid"}


def split_of(model: SidLM, prompt: list[int]) -> str | None:
    """The split that the query of a prompt names; None where it names none."""
    words = model.tokenizer.decode([token for token in prompt if token < model.text_vocab]).split()
    named = [split for split, mark in MARKS.items() if mark in words]
    assert len(named) <= 1
    return named[0] if named else None


def test_the_encoder_is_tuned_on_training_requests_and_chosen_on_the_validation_day(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, judged = [], []
    loss, validation = dense_stage.batch_loss, dense_stage.validation

    def watched_loss(embedder: Any, pairs: Any, *rest: Any) -> Any:
        asked.extend(pair.query for pair in pairs)
        return loss(embedder, pairs, *rest)

    def watched_validation(sets: Any, *rest: Any) -> Any:
        judged.extend(prompt.query for one in sets for prompt in one.prompts)
        return validation(sets, *rest)

    monkeypatch.setattr(dense_stage, "batch_loss", watched_loss)
    monkeypatch.setattr(dense_stage, "validation", watched_validation)
    cfg = config(shop / "inputs")
    cfg.embed = EmbedConfig(
        model=str(save_tiny_encoder(tmp_path / "encoder", seed=0)), dtype="fp32"
    )
    cfg.dense = DenseConfig(
        steps=3, batch_size=32, precision="fp32", validate_every=3, valid_queries=8
    )
    (tmp_path / "dense").mkdir()
    train_dense(cfg, shop / "data", tmp_path / "dense")
    first = Counter(query.split()[0] for query in asked)
    assert first[MARKS["train"]] > 20
    assert first[MARKS["valid"]] == first[MARKS["test"]] == 0
    assert {query.split()[0] for query in judged} == {MARKS["valid"]}


# --- what the config becomes


class Opened(Exception):
    """What the loop was given, in place of training."""

    def __init__(self, task: Any, optim: OptimConfig, identity: dict[str, Any], title: str) -> None:
        super().__init__()
        self.task, self.optim, self.identity, self.title = task, optim, identity, title

    @property
    def model(self) -> SidLM:
        return self.task.model

    @property
    def valid(self) -> list[Any]:
        return self.task._validator.examples

    def rows(self, stream: Any) -> list[Any]:
        """Every example of a stream, in its first epoch."""
        return stream.examples([(index, 0) for index in range(len(stream))])


def opened(name: str, shop: Path, cfg: Config, tmp_path: Path, **kwargs: Any) -> Opened:
    """Open a stage up to its training."""
    module, run = STAGES[name]

    def stop(
        task: Any, optim: OptimConfig, *, identity: dict[str, Any], title: str, **_: Any
    ) -> None:
        raise Opened(task, optim, identity, title)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", stop)
        with pytest.raises(Opened) as stopped:
            run(shop, cfg, tmp_path / name, **kwargs)
    return stopped.value


def most(examples: list[Any], positive: bool) -> int:
    """The largest number of positives (or negatives) of an example."""
    return max(sum(c.is_positive == positive for c in example.candidates) for example in examples)


OPTIM = {
    "steps": 7,
    "batch_size": 12,
    "accumulate": 3,
    "lr_new": 0.011,
    "lr_pretrained": 0.013,
    "weight_decay": 0.017,
    "warmup": 0.31,
    "schedule": "linear",
    "clip": 0.37,
    "precision": "bf16",
    "validate_every": 5,
    "checkpoint_every": 6,
    "keep_checkpoints": 4,
    "log_every": 8,
    "valid_requests": 9,
    "valid_beam": 3,
}
SFT = {
    **OPTIM,
    "positives": "flat",
    "mixture": {"item": 0.5, "pseudo": 0.125, "query": 0.375},
    "max_positives": 2,
}
ALIGN = {
    **OPTIM,
    "objective": "raddpo-paper",
    "label": "mine",
    "beta": 1.25,
    "gamma": 0.75,
    "lam": 0.35,
    "beta_inside": True,
    "mlsft": "top",
    "contrast": "pairwise",
    "tlgd": False,
    "rdrw": True,  # false has no window; LOSSES in test_train_align_steps.py has the case
    "rdrw_state": "last_code",
    "rdrw_window": 77,
    "rdrw_lambda": 5.5,
    "rdrw_warmup_weight": 0.65,
    "rdrw_update": "ema",
    "rdrw_alpha": 0.21,
    "rdrw_weights": "shuffled",
    "rdrw_constant": 0.45,
    "lcp": "any_pos",
    "positives": "flat",
    "item_share": 0.25,
}
PREFERENCE = {
    "negatives": "beam",
    "debias": "ips",
    "max_positives": 3,
    "max_negatives": 5,
    "judge": "rule",
    "refresh_every": 7,
}


def loop_facts(run: Opened) -> dict[str, Any]:
    """Every option of the loop as the loop was given it; those that the stage reads too are held
    beside it.
    """
    validator = run.task._validator
    assert validator.precision == run.optim.precision
    assert len(run.task.batch(0)) == run.optim.batch_size
    given = {name: getattr(run.optim, name) for name in OptimConfig.model_fields}
    return given | {"valid_requests": len(run.valid), "valid_beam": validator.beam}


def test_every_option_of_sft_reaches_its_object(shop: Path, tmp_path: Path) -> None:
    cfg = config(shop / "inputs", sft=SFT, preference={"max_negatives": 5})
    assert_changed(SFT, SftConfig)
    run = opened("sft", shop, cfg, tmp_path)
    streams = run.task._streams
    drawn = Counter(name for name, _, _ in run.task.order.pool(0))
    limits = {
        most(run.rows(streams["query"]), True),
        most(run.rows(streams["pseudo"]), True),
        most(run.valid, True),
    }
    assert (
        loop_facts(run)
        | {
            "mixture": {name: count / drawn.total() for name, count in drawn.items()},
            "positives": reading(run),
            "max_positives": limits.pop() if len(limits) == 1 else limits,
        }
        == SFT
    )
    assert most(run.valid, False) == 5  # preference.max_negatives
    wide = opened("sft", shop, config(shop / "inputs"), tmp_path)
    assert reading(wide) == "mean"
    assert (
        min(
            most(wide.rows(stream), True)
            for stream in (streams["query"], wide.task._streams["pseudo"])
        )
        > 1
    )
    assert_bound(run, "sft", SFT)


def reading(run: Opened) -> str:
    """Whether the loss of item texts, pseudo-queries and requests together is the mean over prompts
    or positives.
    """
    examples = [
        example for stream in run.task._streams.values() for example in run.rows(stream)[:4]
    ]
    packed = pack([x.tokens for x in examples], [x.candidates for x in examples], run.model.vocab)
    run.model.eval()
    with torch.no_grad():
        loss = float(run.task.forward(packed, torch.zeros(len(examples), dtype=torch.bool)).loss)
        scored = [[score_one(run.model, list(x.tokens), c) for c in x.candidates] for x in examples]
    terms = [[-float(sum(steps) + eos) for steps, eos, _ in some] for some in scored]
    readings = {
        "mean": np.mean([np.mean(some) for some in terms]),
        "flat": np.mean([v for some in terms for v in some]),
    }
    assert abs(readings["mean"] - readings["flat"]) > 1e-3
    return next(name for name, value in readings.items() if loss == pytest.approx(value, rel=1e-5))


#: Options of `align` that objectives with rollouts read (test_train_reinforce.py, tests/align).
OF_REINFORCEMENT = {"reward", "rewards", "rollouts", "grpo", "adagrpo", "eggrpo", "recast"}


def assert_changed(
    values: dict[str, Any], section: type[SftConfig] | type[AlignConfig] | type[PreferenceConfig]
) -> None:
    """Every option of the section has another value than its default; a new one must get an entry
    and a fact.
    """
    assert set(values) == set(section.model_fields) - OF_REINFORCEMENT
    unchanged = {name for name, value in values.items() if value == getattr(section(), name)}
    assert unchanged <= {"rdrw"}


def assert_bound(run: Opened, section: str, values: dict[str, Any]) -> None:
    """An interrupted run is bound to every option of its section but those that change what is
    written down.
    """
    bound = {name: value for name, value in values.items() if name not in FREE}
    identity = dict(run.identity[section])
    if section == "align":  # as resolved: their defaults are those of the objective
        assert identity.keys() >= OF_REINFORCEMENT
        identity = {name: identity[name] for name in identity.keys() - OF_REINFORCEMENT}
    assert identity == bound


def test_every_option_of_align_reaches_its_object(shop: Path, tmp_path: Path) -> None:
    cfg = config(shop / "inputs", align=ALIGN)
    assert_changed(ALIGN, AlignConfig)
    run = opened("align", shop, cfg, tmp_path)
    task, window = run.task, run.task.window
    share = Counter(example.is_list for step in range(16) for example in task.batch(step))
    assert {name: getattr(task.cfg, name) for name in ALIGN} | loop_facts(run) | {
        "objective": task.objective.name,
        "label": run.title.removeprefix("align-"),
        "rdrw": window is not None,
        "rdrw_window": window.size,
        "rdrw_lambda": window.lam,
        "rdrw_warmup_weight": window.warmup_weight,
        "rdrw_update": window.update,
        "rdrw_alpha": window.alpha,
        "item_share": share[False] / share.total(),
    } == ALIGN
    assert_bound(run, "align", ALIGN)
    assert run.identity["stage"] == "align-mine"
    # null is the objective's value, and the reading of SFT
    plain = opened("align", shop, config(shop / "inputs", sft={"positives": "flat"}), tmp_path)
    assert (plain.task.cfg.positives, plain.task.cfg.beta) == ("flat", 0.5)


def test_every_option_of_preference_reaches_lists_of_both_days(shop: Path, tmp_path: Path) -> None:
    assert_changed(PREFERENCE, PreferenceConfig)
    cuts = {name: PREFERENCE[name] for name in ("max_positives", "max_negatives")}
    for name in cuts:  # one changed at a time: they must not be taken for one another
        run = opened(
            "align", shop, config(shop / "inputs", preference={name: cuts[name]}), tmp_path
        )
        limits = {"max_positives": 8, "max_negatives": 3} | {name: cuts[name]}
        logged = run.rows(run.task._lists)
        assert most(logged, False) == most(run.valid, False) == limits["max_negatives"]
        assert most(logged, True) <= limits["max_positives"]
        assert run.identity["preference"] == PreferenceConfig(**limits).model_dump()
    few = opened("align", shop, config(shop / "inputs", preference={"max_positives": 1}), tmp_path)
    assert most(few.rows(few.task._lists), True) == most(few.valid, True) == 1
    run = opened("align", shop, config(shop / "inputs", preference=PREFERENCE), tmp_path)
    examples = [example for step in range(4) for example in run.task.batch(step) if example.is_list]
    # of the beam: of a full one there are as many as wanted, unless the judge likes what it holds
    assert max(sum(not c.is_positive for c in example.candidates) for example in examples) == 5
    assert type(run.task._beam._judge._reward).__name__ == "Rule"
    assert run.task._beam._width == 3 + 5
    assert run.task._refresh_every == 7
    assert run.identity["preference"] == PREFERENCE
    # `negatives` and `debias` are also the data stage's: test_data_examples.py,
    # test_data_propensity.py


def test_pseudo_queries_have_every_item_with_their_words_as_a_positive(
    shop: Path, tmp_path: Path
) -> None:
    run = opened("sft", shop, config(shop / "inputs"), tmp_path)
    stream, catalogue = run.task._streams["pseudo"], open_dataset(shop / "data").catalogue
    said = zip(*(catalogue.column(name) for name in ("title", "category", "brand")), strict=True)
    bags = [f"{title} {' '.join(path[-2:])} {brand or ''}".lower() for title, path, brand in said]
    sids = run.task._streams["query"].sids
    several = 0
    draws = [(index, epoch) for epoch in range(4) for index in range(len(stream))]
    for draw, example in zip(draws, stream.examples(draws), strict=True):
        words = stream.query(*draw).split()
        right = [
            row for row, bag in enumerate(bags) if all(f" {word} " in f" {bag} " for word in words)
        ]
        if 1 < len(right) <= 8:
            assert {c.codes for c in example.candidates} == {sids.tuple_of(row) for row in right}
            several += len(example.candidates) > 1
    assert several > 10


LM: list[dict[str, Any]] = [
    {
        "layers": 3,
        "hidden": 48,
        "heads": 4,
        "kv_heads": 2,
        "intermediate": 80,
        "text_embeddings": "random",
        "head": "full",
        "init": "mean",
        "attention": "eager",
        "max_prompt_tokens": 41,
        "history_items": 2,
        "template": "plain",
        "lora": {"r": 3, "alpha": 7, "targets": ["q_proj", "up_proj"]},
    },
    {"geometry": True, "geometry_exact": 40, "geometry_top": 5},
    {"backbone": "folder"},
]


def lm_facts(run: Opened) -> dict[str, Any]:
    """The options of the language model as the model that SFT starts from has them."""
    model, backbone, prompts = run.model, run.model.backbone.config, run.model.prompts
    adapted = {n.split(".")[-4]: p for n, p in model.named_parameters() if "lora_A" in n}
    layers = [
        module
        for module in model.modules()
        if hasattr(module, "scaling") and hasattr(module, "lora_alpha")
    ]
    words = model.word_embeddings.detach()
    apart = (model.sid_in.detach() - words.mean(0)).std() / words.std()
    lora = None
    if adapted:
        rank = {p.shape[0] for p in adapted.values()}
        lora = {
            "r": rank.pop(),
            "alpha": layers[0].lora_alpha["default"],
            "targets": sorted(adapted),
        }
    return {
        "backbone": model.config.backbone,
        "layers": backbone.num_hidden_layers,
        "hidden": backbone.hidden_size,
        "heads": backbone.num_attention_heads,
        "kv_heads": backbone.num_key_value_heads,
        "intermediate": backbone.intermediate_size,
        "text_embeddings": {"text": "minilm", "none": "random"}.get(model.config.pretrained),
        "head": model.config.head,
        # a tenth of the words' spread, or as long as words
        "init": "mean" if float(apart) < 0.2 else "centroid",
        "geometry": model.geometry is not None,
        "geometry_exact": model.config.geometry_exact,
        "geometry_top": model.config.geometry_top,
        "lora": lora,
        "max_prompt_tokens": prompts.max_tokens,
        "history_items": prompts.history_items,
        "attention": model.config.attention,
        "template": next(
            name for name, template in TEMPLATES.items() if template is prompts.template
        ),
    }


@pytest.mark.parametrize("values", LM, ids=["embedded", "geometry", "folder"])
def test_every_option_of_lm_reaches_the_model(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    assert {name for some in LM for name in some} == set(LmConfig.model_fields)
    plain = replace(TEMPLATES["default"], answer=":")
    monkeypatch.setitem(TEMPLATES, "plain", plain)
    if "backbone" in values:
        values = {"backbone": str(write_backbone(tmp_path / "backbone", hidden=16, layers=1))}
    cfg = config(shop / "inputs")
    # of the codebooks: `geometry` reads the query's vector
    cfg.embed = EmbedConfig(model="hashing:32")
    cfg.lm = LmConfig.model_validate(
        {"text_embeddings": "minilm", "layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2} | values
    )
    run = opened("sft", shop, cfg, tmp_path)
    facts = lm_facts(run)
    assert {name: facts[name] for name in values} == values
    for name, value in values.items():
        assert value != getattr(LmConfig(), name)
    assert run.identity["lm"] == cfg.lm.model_dump(mode="json")
    assert {name: run.identity["lm"][name] for name in values} == values


# --- what interrupted work belongs to


@pytest.mark.parametrize("name", STAGES)
def test_the_identity_names_every_input_that_the_stage_reads(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def told(folder: Path, files: list[str]) -> str:
        assert all((folder / file).is_file() for file in files)
        return f"{folder.name}: {' '.join(files)}"

    monkeypatch.setattr(STAGES[name][0], "hash_of", told)
    identity = opened(name, shop, config(shop / "inputs"), tmp_path).identity
    wanted = {
        "sft": {
            "data": "data: sft.parquet lists.parquet catalogue.arrow",
            "sid": "sid: sids.parquet codebooks.safetensors",
        },
        "align": {
            "data": "data: lists.parquet catalogue.arrow",
            "sid": "sid: sids.parquet",
            "sft": "sft: model/model.safetensors model/config.json",
        },
    }[name]
    assert {key: identity[key] for key in wanted} == wanted


def test_a_folder_is_known_by_its_manifest_or_by_each_of_its_files(tmp_path: Path) -> None:
    for file in ("a", "b"):
        (tmp_path / file).write_text("as it was")
    hashes = [hash_of(tmp_path, ["a", "b", "absent"])]
    for file in ("a", "b"):
        (tmp_path / file).write_text("otherwise")
        hashes.append(hash_of(tmp_path, ["a", "b", "absent"]))
    with write_artifact(tmp_path / "c", "data", config={"seed": 1}) as draft:
        (draft.path / "a").write_text("otherwise")
    manifest = read_manifest(tmp_path / "c")
    assert manifest is not None
    assert hash_of(tmp_path / "c", ["a"]) == manifest.hash
    assert len({*hashes, manifest.hash}) == 4


def test_seed_fields_and_warm_start_are_part_of_the_identity(shop: Path, tmp_path: Path) -> None:
    cfg = config(shop / "inputs")
    for name in STAGES:
        before = opened(name, shop, cfg, tmp_path)
        other = cfg.model_copy(update={"seed": 5, "embed": EmbedConfig(fields=["title"])})
        after = opened(name, shop, other, tmp_path)
        assert {key for key in before.identity if before.identity[key] != after.identity[key]} == {
            "seed",
            "fields",
        }
        assert (after.identity["seed"], after.identity["fields"]) == (5, ["title"])
        texts = [len(example.tokens) for run in (before, after) for example in run.rows(items(run))]
        assert sum(texts[:64]) > sum(texts[64:])  # the fields are those that item rows are made of
    warm = opened("sft", shop, cfg.model_copy(update={"warm_start": str(shop / "sft")}), tmp_path)
    assert warm.identity["warm_start"] == str(shop / "sft")


def items(run: Opened) -> Any:
    return run.task._streams["item"] if hasattr(run.task, "_streams") else run.task._items


def test_alignment_starts_from_the_final_model_of_sft_and_keeps_it_as_its_reference(
    shop: Path, tmp_path: Path
) -> None:
    run = opened("align", shop, config(shop / "inputs", align={"objective": "dpo"}), tmp_path)
    final = SidLM.from_pretrained(shop / "sft" / "model").state_dict()
    for model in (run.model, run.task._reference):
        assert all(torch.equal(tensor, final[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(1.0)
    frozen = run.task._reference
    assert all(torch.equal(tensor, final[name]) for name, tensor in frozen.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
