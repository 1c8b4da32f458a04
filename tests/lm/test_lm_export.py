from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidar.config import LmConfig, LoraConfig
from sidar.lm import Candidate, SidLM, export_hf, pack, score

Build = Callable[..., SidLM]
PROMPT, SID = [5, 6, 7], (1, 2, 3)


def scores_elsewhere(folder: Path, prompt: list[int], codes: tuple[int, ...]) -> list[float]:
    """Log-probs of an SID by a program that knows only the folder."""
    about = json.loads((folder / "sid_tokens.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder)
    row = prompt + [about["levels"][level][0] + code for level, code in enumerate(codes)]
    if len(codes) < len(about["levels"]):
        row.append(about["eos"])  # ending early is a step of its own
    logits = model(torch.tensor([row])).logits[0].detach()
    out = []
    for level, (start, end) in enumerate(about["levels"][: len(row) - len(prompt)]):
        step = logits[len(prompt) - 1 + level]
        if about["head"] == "level":
            allowed = list(range(start, end)) + (
                [about["eos"]] if about["variable_length"] and level else []
            )
            step = torch.full_like(step, -torch.inf).index_copy(
                0, torch.tensor(allowed), step[allowed]
            )
        out.append(float(step.log_softmax(-1)[row[len(prompt) + level]]))
    return out


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)])
@pytest.mark.parametrize("variable_length", [False, True])
@pytest.mark.parametrize("head", ["level", "full"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_exported_checkpoints_score_alike(
    tiny: Build,
    tmp_path: Path,
    family: str,
    head: str,
    variable_length: bool,
    lora: LoraConfig | None,
) -> None:
    model = tiny(family, variable_length, head=head, lora=lora)
    if lora:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    before = model.word_embeddings.detach().clone()
    export_hf(model, tmp_path)
    ours = (
        score(model, pack([PROMPT], [[Candidate(SID, True, 1)]], model.vocab))
        .logp[0, 0, :3]
        .tolist()
    )
    assert scores_elsewhere(tmp_path, PROMPT, SID) == pytest.approx(ours, abs=1e-5)
    if variable_length:
        short = score(model, pack([PROMPT], [[Candidate(SID[:2], True, 1)]], model.vocab))
        assert short.mask[0, 0].tolist() == [True, True, True, False]
        assert scores_elsewhere(tmp_path, PROMPT, SID[:2]) == pytest.approx(
            short.logp[0, 0, :3].tolist(), abs=1e-5
        )
    assert torch.equal(model.word_embeddings, before)  # exporting changes nothing here


def test_exported_tokenizer_keeps_sids_out_of_user_text(tiny: Build, tmp_path: Path) -> None:
    model = tiny("qwen3")
    ids = export_hf(model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == model.text_vocab + model.vocab.size
    assert tokenizer.convert_tokens_to_ids("<s1_12>") == ids["<s1_12>"] == model.text_vocab + 12
    assert tokenizer("<s1_12>")["input_ids"] == [ids["<s1_12>"]]  # a server's own prompt text
    typed = tokenizer("<s1_12>", split_special_tokens=True)["input_ids"]  # a user's
    assert max(typed) < model.text_vocab
    for text in ("red kitchen towels", "USB cable"):
        assert tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]


def test_embedded_default_exports(tmp_path: Path) -> None:
    cfg = LmConfig(
        layers=1, hidden=16, heads=2, kv_heads=1, intermediate=16, text_embeddings="random"
    )
    model = SidLM.build(cfg, (16, 8, 8), seed=2)
    export_hf(model, tmp_path)
    ours = (
        score(model, pack([PROMPT], [[Candidate(SID, True, 1)]], model.vocab))
        .logp[0, 0, :3]
        .tolist()
    )
    assert scores_elsewhere(tmp_path, PROMPT, SID) == pytest.approx(ours, abs=1e-5)
