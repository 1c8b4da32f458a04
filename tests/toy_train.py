"""The toy shop ready for training: 64 different SIDs, tiny models, tasks without files."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from sidar.config import AlignConfig, LmConfig, OptimConfig
from sidar.data import toy
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.rewards import RewardInputs, fitted_reward
from sidar.train.align import AlignTask
from sidar.train.examples import ItemStream, LogStream, PseudoStream
from sidar.train.pseudo import item_words
from sidar.train.rl.reinforce import ReinforceTask
from sidar.train.rl.rollouts import Explorer
from sidar.train.sft import SftTask
from sidar.train.validate import Validator
from sidar.types import SemanticIds


def toy_sids():
    """Shelf, then the place in two codes."""
    rows = np.arange(64)
    codes = np.stack([rows // 8, rows % 8 // 2, rows % 2], 1).astype(np.int32)
    return SemanticIds(codes, np.full(64, 3, np.int32), (8, 4, 2), method="toy")


def item_texts():
    items = toy.catalogue()
    return [
        f"{t} {' '.join(c)}"
        for t, c in zip(items.column("title"), items.column("category"), strict=True)
    ]


def write_backbone(folder, hidden=32, layers=2, seed=0):
    """A random Qwen3 with a BPE tokenizer trained on the toy titles, saved as anybody's local
    causal LM.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|pad|>"]
    bpe.train_from_iterator(
        [t.lower() for t in item_texts()],
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>"
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=hidden // 2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(backbone, seed=0, **changes):
    return SidLM.build(
        LmConfig(backbone=str(backbone), max_prompt_tokens=48, **changes), toy_sids(), seed=seed
    )


def toy_lists(count=48, seed=0):
    """Preference lists in the columns of lists.parquet; a list in six has no negatives, queries are
    a shelf's words.
    """
    rng = np.random.default_rng(seed)
    items, rows = toy.catalogue(), []
    for number in range(count):
        shelf = int(rng.integers(8))
        shown = rng.permutation(8)[:6] + 8 * shelf
        n_pos = int(rng.integers(1, 4))
        negatives = [] if number % 6 == 5 else [int(r) for r in shown[n_pos:]]
        rows.append(
            {
                "request_id": f"r{number}",
                "query": f"{items.item(int(shown[0]))['title'].split()[0].lower()} {shelf}",
                "history": [int(rng.integers(64))] if number % 2 else [],
                "profile": "flat" if number % 3 else "",
                "positives": [int(r) for r in shown[:n_pos]],
                "tiers": [3, 2, 1][:n_pos],
                "negatives": negatives,
            }
        )
    types = {
        "history": pa.list_(pa.int32()),
        "positives": pa.list_(pa.int32()),
        "negatives": pa.list_(pa.int32()),
    }
    fields = [
        (n, types.get(n, pa.list_(pa.int8()) if n == "tiers" else pa.string())) for n in rows[0]
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def item_stream(model):
    return ItemStream(item_texts(), toy_sids(), model.prompts, toy.catalogue().alive)


def pseudo_stream(model, seed=0):
    columns = (toy.catalogue().column(n) for n in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    return PseudoStream(words, toy_sids(), model.prompts, toy.catalogue().alive, seed)


def list_stream(model, table=None, max_negatives=3):
    return LogStream(
        toy_lists() if table is None else table,
        toy_sids(),
        model.prompts,
        max_positives=8,
        max_negatives=max_negatives,
        is_list=True,
    )


def validator(model, limit=16):
    examples = item_stream(model).examples([(i, 0) for i in range(0, 64, 64 // limit)])
    return Validator(examples, PrefixIndex.build(toy_sids()), precision="fp32")


def sft_task(model, batch_size=16, seed=0, positives="mean", limit=16):
    streams = {
        "item": item_stream(model),
        "pseudo": pseudo_stream(model),
        "query": list_stream(model, max_negatives=0),
    }
    return SftTask(
        model,
        streams,
        {"item": 0.4, "pseudo": 0.3, "query": 0.3},
        validator(model, limit),
        positives=positives,
        batch_size=batch_size,
        seed=seed,
    )


def align_task(model, cfg: AlignConfig, seed=0, **kwargs):
    return AlignTask(
        model, list_stream(model), item_stream(model), validator(model), cfg, seed, **kwargs
    )


def reward_inputs():
    """What a reward of the toy shop is fitted on."""
    dataset = SimpleNamespace(catalogue=toy.catalogue())
    return RewardInputs(dataset, PrefixIndex.build(toy_sids()), run=None)


def request_stream(model):
    """The toy lists without negatives, which are what each request showed and nobody chose."""
    table = toy_lists()
    table = table.append_column("exposed", table.column("negatives"))
    return list_stream(model, table, max_negatives=0)


def explorer(model, cfg: AlignConfig, seed=0, reward=None):
    reward = fitted_reward(cfg, reward_inputs()) if reward is None else reward
    return Explorer(model, PrefixIndex.build(toy_sids()), toy_sids(), reward, cfg, seed)


def reinforce_task(model, cfg: AlignConfig, seed=0, reward=None):
    parts = (request_stream(model), item_stream(model), validator(model))
    return ReinforceTask(model, *parts, cfg, seed, explorer(model, cfg, seed, reward))


def quick(kind=OptimConfig, **changes):
    """Optimiser settings for a few steps on one thread."""
    settings = {
        "steps": 12,
        "batch_size": 16,
        "lr_new": 3e-3,
        "lr_pretrained": 3e-3,
        "validate_every": 6,
        "checkpoint_every": 4,
        "log_every": 3,
        "precision": "fp32",
    }
    return kind(**{**settings, **changes})
