"""Small random SidLMs of several families, without files or tokenizers."""

import torch
from transformers import (
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from sidar.config import LoraConfig
from sidar.lm.backbone import Backbone, add_lora
from sidar.lm.model import SidLM, SidLMConfig

TEXT = 40
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {
    "qwen3": (Qwen3Config, Qwen3Model, {"head_dim": 16}),
    "qwen3-gqa-bias": (
        Qwen3Config,
        Qwen3Model,
        {"head_dim": 12, "num_key_value_heads": 2, "attention_bias": True},
    ),
    "qwen2": (Qwen2Config, Qwen2Model, {"num_key_value_heads": 1}),
    "llama": (LlamaConfig, LlamaModel, {}),
    "llama-scaled": (LlamaConfig, LlamaModel, {"rope_parameters": LLAMA3, "mlp_bias": True}),
    "mistral": (MistralConfig, MistralModel, {"sliding_window": None, "num_key_value_heads": 2}),
}


def shape(**changes):
    base = {
        "vocab_size": TEXT,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    }
    return {**base, **changes}


def small(
    family="qwen3", sizes=(7, 5, 4), *, head="level", variable=False, lora=False, tied=True, seed=0
):
    """A model whose every weight is random, biases and norms included, and whose choices differ
    clearly.
    """
    config_class, model_class, changes = FAMILIES[family]
    decoder = model_class(config_class(**shape(**changes)))
    settings = {
        "codebook_sizes": sizes,
        "text_vocab": TEXT,
        "variable_length": variable,
        "head": head,
        "tied": tied,
    }
    model = SidLM(
        SidLMConfig(backbone="random", pretrained="none", **settings),
        Backbone(decoder, None, None, "none"),
    )
    if lora:
        add_lora(decoder, LoraConfig(r=3, alpha=9), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.3 * noise)
        for rows in (*model.heads, model.eos_head):
            rows.mul_(2)
    return model.eval()


def causal_twin(model):
    """The same weights as a plain Hugging Face causal LM with SID tokens in its vocabulary and a
    full head.
    """
    d = model.hidden_size
    config = Qwen3Config(
        **{**model.backbone.config.to_dict(), "vocab_size": TEXT + model.vocab.size}
    )
    config.tie_word_embeddings = False
    twin = Qwen3ForCausalLM(config)
    twin.model.load_state_dict(
        {k: v for k, v in model.backbone.state_dict().items() if "embed" not in k}, strict=False
    )
    words = model.backbone.get_input_embeddings().weight
    with torch.no_grad():
        twin.get_input_embeddings().weight.copy_(torch.cat([words, model.sid_in]))
        head = words if model.text_head is None else model.text_head
        twin.lm_head.weight.copy_(torch.cat([head, *model.heads, model.eos_head]))
    assert twin.lm_head.weight.shape == (TEXT + model.vocab.size, d)
    return twin.eval()
