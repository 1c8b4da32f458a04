"""One training step (forward + backward) on preference lists: packed, against the ways that peers
lay them out.

The same decoder in fp32 everywhere (Qwen3 architecture, 8 layers, d 256), the same lists: a prompt
of 64 tokens, and positives and negatives of three codes from codebooks of 8192/4096/2048, of which
34.6 % of the pairs share the first code and 1.9 % two (the rates that the RAD-DPO paper reports).
A step takes four lists.

  packed  ours: [prompt | trie of all candidates] per list, sliced heads; SimPO's loss on every pair
  packed DPO           the same with DPO's loss and the frozen reference, packed too
  SimPO pairs  per (positive, negative) pair two rows of prompt + SID through transformers'
  Qwen3ForCausalLM,
                       whose vocabulary is text + SIDs; logits only where codes are predicted
                       (`logits_to_keep`)
  DPO pairs            the same rows, and a forward of the frozen reference on them
  SimPO pairs, sliced  the rows of SimPO pairs through our model with sliced heads: what packing
      alone is worth
  unique, sliced       one row of prompt + SID per distinct candidate through our model

`packed` and `SimPO pairs, sliced` compute the same number; the largest difference of their
gradients is printed. Packed lists carry the position that outputs EOS, the peers' rows score no
EOS: a handicap on our side.

`python benchmarks/preference_step.py` prints the tables and writes results/preference_step.json.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import common

common.single_thread()

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3ForCausalLM

from sidar.config import LmConfig
from sidar.lm import Candidate, SidLM, pack, score

SIZES = (8192, 4096, 2048)
MODEL = {
    "layers": 8,
    "hidden": 256,
    "heads": 4,
    "kv_heads": 4,
    "intermediate": 704,
    "text_embeddings": "random",
}
PROMPT = 64
SHARED = (0.346, 0.019)  # pairs that share one code, two codes
BETA, GAMMA, DPO_BETA = 2.0, 0.5, 0.1
LISTS = 4
Step = Callable[[], Tensor]


def make_model(seed: int = 0) -> SidLM:
    return SidLM.build(LmConfig(**MODEL), SIZES, seed=seed)


def make_list(positives: int, negatives: int, seed: int = 0) -> tuple[list[int], list[Candidate]]:
    """A prompt and candidates whose shared-prefix rates are the paper's in expectation.

    A candidate lies in the topic's main prefix with probability √rate, so that a pair meets there
    with the rate.
    """
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1000, 30000, PROMPT).tolist()
    first, second = np.sqrt(SHARED[0]), np.sqrt(SHARED[1] / SHARED[0])
    main = [int(rng.integers(k)) for k in SIZES]
    codes: dict[tuple[int, ...], None] = {}
    while len(codes) < positives + negatives:
        drawn = [int(rng.integers(k)) for k in SIZES]
        if rng.random() < first:
            drawn[0] = main[0]
            if rng.random() < second:
                drawn[1] = main[1]
        codes[tuple(drawn)] = None
    return prompt, [Candidate(c, i < positives, int(i < positives)) for i, c in enumerate(codes)]


def simpo(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean SimPO loss of pairs of summed log-probs of three codes."""
    return -F.logsigmoid(BETA * (chosen - rejected) / len(SIZES) - GAMMA).mean()


def dpo(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor) -> Tensor:
    """Mean DPO loss of pairs of summed log-probs."""
    return -F.logsigmoid(DPO_BETA * ((chosen - chosen_ref) - (rejected - rejected_ref))).mean()


def row_logp(model: SidLM, rows: Tensor) -> Tensor:
    """Summed log-probs (n,) of rows (n, prompt + 3) under plain causal attention, heads only where
    codes are read.
    """
    hidden = model(rows, torch.arange(rows.shape[1])[None].expand(len(rows), -1), None)
    total = torch.zeros(len(rows))
    for depth, offset in enumerate(model.vocab.offsets):
        code = rows[:, PROMPT + depth] - model.text_vocab - offset
        logits = model.level_logits(hidden[:, PROMPT - 1 + depth], depth)
        total = total - F.cross_entropy(logits, code, reduction="none")
    return total


def make_peer(seed: int = 0) -> torch.nn.Module:
    """The same decoder as a causal LM of transformers with one vocabulary of text and SIDs, input
    and head tied.
    """
    config = copy.deepcopy(make_model(seed).backbone.config)
    config.vocab_size += sum(SIZES) + 1
    return Qwen3ForCausalLM(config)


def peer_logp(peer: torch.nn.Module, rows: Tensor) -> Tensor:
    """Summed log-probs (n,) of rows (n, prompt + 3) under the full-vocabulary softmax."""
    logits = peer(input_ids=rows, logits_to_keep=len(SIZES) + 1, use_cache=False).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), rows[:, PROMPT:].flatten(), reduction="none")
    return -loss.view(len(rows), -1).sum(1)


def variants(positives: int, negatives: int, lists: int = LISTS, seed: int = 0) -> dict[str, Step]:
    """The steps to be timed; each clears the gradients, runs forward and backward, and returns its
    loss.
    """
    model, reference = make_model(seed), make_model(seed + 1).requires_grad_(False)
    peer, peer_reference = make_peer(seed), make_peer(seed + 1).requires_grad_(False)
    vocab = model.vocab
    drawn = [make_list(positives, negatives, seed + i) for i in range(lists)]
    prompts, listed = [p for p, _ in drawn], [c for _, c in drawn]
    table = torch.tensor(
        [[p + [vocab.text_vocab + t for t in vocab.tokens(x.codes)] for x in c] for p, c in drawn]
    )  # (lists, C, prompt + 3)

    def all_pairs(of: Tensor) -> tuple[Tensor, Tensor]:
        """(lists, C, …) of distinct candidates → chosen and rejected (lists · pairs, …)."""
        chosen = of[:, :positives].repeat_interleave(negatives, 1).flatten(0, 1)
        return chosen, of[:, positives:].repeat(1, positives, *(1 for _ in of.shape[2:])).flatten(
            0, 1
        )

    pairs, unique = torch.cat(all_pairs(table)), table.flatten(0, 1)

    def packed(lm: SidLM) -> tuple[Tensor, Tensor]:
        return all_pairs(score(lm, pack(prompts, listed, vocab)).logp.sum(-1))

    def frozen(logp: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return logp()

    def step(trained: torch.nn.Module, loss: Callable[[], Tensor]) -> Step:
        def run() -> Tensor:
            trained.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            return value.detach()

        run.model = trained
        return run

    return {
        "packed": step(model, lambda: simpo(*packed(model))),
        "packed DPO": step(model, lambda: dpo(*packed(model), *frozen(lambda: packed(reference)))),
        "unique, sliced": step(
            model, lambda: simpo(*all_pairs(row_logp(model, unique).view(lists, -1)))
        ),
        "SimPO pairs, sliced": step(model, lambda: simpo(*row_logp(model, pairs).chunk(2))),
        "SimPO pairs": step(peer, lambda: simpo(*peer_logp(peer, pairs).chunk(2))),
        "DPO pairs": step(
            peer,
            lambda: dpo(
                *peer_logp(peer, pairs).chunk(2),
                *frozen(lambda: peer_logp(peer_reference, pairs).chunk(2)),
            ),
        ),
    }


def measured_step(variant: str, positives: int, negatives: int, lists: int) -> Step:
    """For a fresh process: everything is built, nothing has run, and memory freed while building is
    given back.

    Without the last the step would grow into what building left behind, and look smaller than it
    is.
    """
    step = variants(positives, negatives, lists)[variant]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return step


def gradient_difference(steps: dict[str, Step]) -> float:
    """Largest difference between the gradients of the two equal losses, over the
    largest gradient.
    """
    taken = []
    for name in ("packed", "SimPO pairs, sliced"):
        steps[name]()
        model: SidLM = steps[name].model
        taken.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    largest = max(float(g.abs().max()) for g in taken[1].values())
    return max(float((taken[0][n] - g).abs().max()) for n, g in taken[1].items()) / largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    figures: dict[str, float] = {}
    tables: dict[str, dict[str, float]] = {}
    # (suffix of the figures, positives, negatives, lists): four positives make 64 pairs, so one
    # list is enough of them
    for suffix, positives, negatives, lists in (
        ("", 1, 16, LISTS),
        ("_n3", 1, 3, LISTS),
        ("_4positives", 4, 16, 1),
    ):
        steps = variants(positives, negatives, lists)
        if not suffix:
            figures["gradient_difference"] = gradient_difference(steps)
        else:  # beside it: what a list of another shape gains
            steps = {name: steps[name] for name in ("packed", "SimPO pairs", "DPO pairs")}
        seconds = common.interleave(steps, repeats)
        names = ["packed", "SimPO pairs", "DPO pairs"]
        memory = {
            name: common.peak_rss_in_fresh_process(
                __file__, "measured_step", name, positives, negatives, lists
            )
            for name in names
        }
        rows = [
            (name, t * 1e3, t / seconds["packed"], memory.get(name, math.nan) / 1e6)
            for name, t in seconds.items()
        ]
        title = f"{positives} positive(s), {negatives} negatives, {lists} list(s) a step"
        common.print_table(("variant", "CPU ms", "over packed", "memory MB"), rows, "\n" + title)
        tables[title] = {name: t * 1e3 for name, t in seconds.items()}
        for name, key in (
            ("DPO pairs", "dpo_pairs"),
            ("SimPO pairs", "simpo_pairs"),
            ("SimPO pairs, sliced", "simpo_pairs_sliced"),
            ("unique, sliced", "unique_sliced"),
            ("packed DPO", "packed_dpo"),
        ):
            if name in seconds:
                figures[f"{key}_over_packed{suffix}"] = seconds[name] / seconds["packed"]
        figures[f"packed_ms{suffix}"] = seconds["packed"] * 1e3
        figures[f"packed_extra_mb{suffix}"] = memory["packed"] / 1e6
        figures[f"pairs_extra_memory_over_packed{suffix}"] = memory["DPO pairs"] / memory["packed"]
        figures[f"simpo_pairs_extra_memory_over_packed{suffix}"] = (
            memory["SimPO pairs"] / memory["packed"]
        )
    config = {
        "model": MODEL,
        "codebooks": SIZES,
        "prompt": PROMPT,
        "shared_prefixes": SHARED,
        "lists": LISTS,
    }
    config |= {
        "precision": "fp32",
        "repeats": repeats,
        "statistic": "median process CPU time, variants interleaved",
    }
    print("\nwrote", common.write_results("preference_step", config, figures, cpu_ms=tables))


if __name__ == "__main__":
    main()
