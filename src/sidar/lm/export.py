"""A plain Hugging Face causal LM out of a SidLM, so that other servers (vLLM, SGLang, xLLM …) write
the same SIDs.

SID token s becomes the ordinary id ``text_vocab + s``, added to the tokenizer as a *special* token:
only those stay whole words of the model and yet are not read out of user text under
``split_special_tokens=True``, which a server that takes text from users must set.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor

from sidar.lm.model import SidLM

SID_TOKENS = "sid_tokens.json"


@torch.no_grad()
def export_hf(model: SidLM, folder: str | Path) -> dict[str, int]:
    """Write ``model`` as a causal LM with a full head, its tokenizer and ``sid_tokens.json``;
    returns token → id.

    Same scores elsewhere: with ``head="full"`` the log-softmax over all ids is ours.  With
    ``head="level"`` mask the logits to the ids of the level (``levels`` in ``sid_tokens.json``;
    plus ``eos`` where an SID may end) *before* the log-softmax; such a model was never trained to
    write text, so the head's text rows are zeros.  LoRA is merged. Raises ``ValueError`` for a
    model that reads sentence vectors: a plain causal LM has no place for them.
    """
    if model.geometry is not None:
        raise ValueError(
            "this model adds the query's sentence vector to its level heads (lm.geometry), which "
            "no plain causal LM can; serve it with Sidar, or train one with lm.geometry=false to "
            "export"
        )
    from transformers import AddedToken, AutoModelForCausalLM

    folder, vocab, first = Path(folder), model.vocab, model.text_vocab
    tokenizer = copy.deepcopy(model.tokenizer)
    # Models often embed more rows than their tokenizer has words; fillers let SID ids start where
    # the rows end.
    fillers = [AddedToken(f"<unused_{i}>", special=True) for i in range(len(tokenizer), first)]
    spelled = [vocab.spell(token) for token in range(vocab.size)]
    tokenizer.add_tokens(
        [*fillers, *(AddedToken(text, special=True) for text in spelled)], special_tokens=True
    )
    ids = dict(zip(spelled, tokenizer.convert_tokens_to_ids(spelled), strict=True))
    if ids[spelled[0]] != first or len(tokenizer) != first + vocab.size:
        raise ValueError(
            f"the tokenizer already knows some of {spelled[0]} … {spelled[-1]}: SID tokens start "
            f"at id {ids[spelled[0]]}, not at {first}; train with a tokenizer that lacks them"
        )

    config = copy.deepcopy(model.backbone.config)
    config.vocab_size = first + vocab.size
    config.tie_word_embeddings = False  # an SID's input row and its head row are two parameters
    config.eos_token_id = ids[spelled[-1]]
    config.use_cache = True
    causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = _merged(model)
    words = model.word_embeddings
    name = next(n for n, p in model.backbone.named_parameters() if p is words)
    weights[name] = torch.cat([words, model.sid_in])
    causal.base_model.load_state_dict(weights)
    head = causal.get_output_embeddings().weight
    head.zero_()
    if model.config.head == "full":
        head[:first] = words if model.text_head is None else model.text_head
    head[first:] = torch.cat([*model.heads, model.eos_head])
    causal.generation_config.eos_token_id = config.eos_token_id
    causal.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {
        "head": model.config.head,
        "codebook_sizes": vocab.codebook_sizes,
        "variable_length": vocab.variable_length,
        "levels": [
            [first + start, first + start + size]
            for start, size in zip(vocab.offsets, vocab.codebook_sizes, strict=True)
        ],
        "eos": first + vocab.eos,
        "tokens": ids,
    }
    (folder / SID_TOKENS).write_text(json.dumps(about, indent=1) + "\n")
    return ids


def _merged(model: SidLM) -> dict[str, Tensor]:
    """The backbone's weights under their plain names, adapters added in."""
    weights = {
        name: tensor for name, tensor in model.backbone.state_dict().items() if "lora_" not in name
    }
    if model.config.lora:
        for name, module in model.backbone.named_modules():
            if hasattr(module, "get_delta_weight"):  # an adapted linear layer of peft
                weights[f"{name}.base_layer.weight"] = (
                    module.base_layer.weight + module.get_delta_weight("default")
                )
    return {name.replace(".base_layer", ""): tensor for name, tensor in weights.items()}
