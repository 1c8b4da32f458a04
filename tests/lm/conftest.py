from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sidar.config import LmConfig
from sidar.lm import SidLM

SIZES = (16, 8, 8)
TEXTS = [
    "red kitchen towels",
    "usb charging cable",
    "history user search product =",
    "woman 34 likes blue mugs",
] * 4


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the spot, with a chat model's control token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two-layer random checkpoints of two families with grouped queries: Qwen3 (tied) and Llama
    (untied head).
    """
    tokenizer = bpe_tokenizer()
    shape = {
        "vocab_size": len(tokenizer) + 13,  # models often embed more rows than there are words
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
        "max_position_embeddings": 256,
    }
    folders = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, model in (
            ("qwen3", Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True))),
            ("llama", LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))),
        ):
            folders[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(folders[name])
            tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def tiny(checkpoints: dict[str, Path]):
    """``tiny("qwen3", variable_length=True, head="full", …)`` builds a SidLM on a
    tiny checkpoint.
    """

    def build(
        family: str = "qwen3", variable_length: bool = False, seed: int = 0, **lm: object
    ) -> SidLM:
        cfg = LmConfig(backbone=str(checkpoints[family]), **lm)
        return SidLM.build(cfg, SIZES, variable_length=variable_length, seed=seed)

    return build
