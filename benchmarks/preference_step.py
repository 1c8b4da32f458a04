"""One training step (forward + backward) on one preference list: packed, against the ways that peers do it.

Every variant is the same model in fp32 (Qwen3 architecture, 8 layers, d 256, sliced heads of 8192/4096/2048 codes that
are evaluated at the answer's positions only) and the same list: a prompt of 64 tokens, positives and negatives of three
codes, of which 34.6 % of the pairs share the first code and 1.9 % two (the rates that the RAD-DPO paper reports).  So
the figures show what packing is worth, and nothing else: a peer's full-vocabulary head would cost it more.

  packed             [prompt | trie of all candidates], one row, prefixes merged; SimPO's loss on every pair
  packed DPO         the same and the frozen reference, packed too
  unique candidates  one row of prompt + SID per distinct candidate; the same loss
  SimPO pairs        per (positive, negative) pair two rows of prompt + SID, as preference trainers lay them out
  DPO pairs          the same rows and a forward of the frozen reference
  TRL DPOTrainer     its own collator, model and loss on the same pairs (full-vocabulary head), timed once

`python benchmarks/preference_step.py` prints the table and writes results/preference_step.json.
"""

from __future__ import annotations

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

from sidar.config import LmConfig
from sidar.lm import Candidate, SidLM, pack, score

SIZES = (8192, 4096, 2048)
MODEL = {"layers": 8, "hidden": 256, "heads": 4, "kv_heads": 4, "intermediate": 704, "text_embeddings": "random"}
PROMPT = 64
SHARED = (0.346, 0.019)  # pairs that share one code, two codes
BETA, GAMMA, DPO_BETA = 2.0, 0.5, 0.1
LISTS = 4
Step = Callable[[], Tensor]


def make_model(seed: int = 0) -> SidLM:
    return SidLM.build(LmConfig(**MODEL), SIZES, seed=seed)


def make_list(positives: int, negatives: int, seed: int = 0) -> tuple[list[int], list[Candidate]]:
    """A prompt and candidates whose shared-prefix rates are the paper's in expectation.

    A candidate lies in the topic's main prefix with probability √rate, so that a pair meets there with the rate.
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
    """Summed log-probs (n,) of rows (n, prompt + 3) under plain causal attention, heads only where codes are read."""
    hidden = model(rows, torch.arange(rows.shape[1])[None].expand(len(rows), -1), None)
    total = torch.zeros(len(rows))
    for depth, offset in enumerate(model.vocab.offsets):
        code = rows[:, PROMPT + depth] - model.text_vocab - offset
        logits = model.level_logits(hidden[:, PROMPT - 1 + depth], depth)
        total = total - F.cross_entropy(logits, code, reduction="none")
    return total


def variants(positives: int, negatives: int, lists: int = LISTS, seed: int = 0) -> dict[str, Step]:
    """The steps to be timed; each clears the gradients, runs forward and backward, and returns its loss."""
    model, reference = make_model(seed), make_model(seed + 1).requires_grad_(False)
    vocab = model.vocab
    drawn = [make_list(positives, negatives, seed + i) for i in range(lists)]
    prompts, listed = [p for p, _ in drawn], [c for _, c in drawn]
    table = torch.tensor(
        [[p + [vocab.text_vocab + t for t in vocab.tokens(x.codes)] for x in c] for p, c in drawn]
    )  # (lists, C, prompt + 3)

    def all_pairs(of: Tensor) -> tuple[Tensor, Tensor]:
        """(lists, C, …) of distinct candidates → chosen and rejected (lists · pairs, …)."""
        chosen = of[:, :positives].repeat_interleave(negatives, 1).flatten(0, 1)
        return chosen, of[:, positives:].repeat(1, positives, *(1 for _ in of.shape[2:])).flatten(0, 1)

    pairs, unique = torch.cat(all_pairs(table)), table.flatten(0, 1)

    def step(loss: Callable[[], Tensor]) -> Step:
        def run() -> Tensor:
            model.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            return value.detach()

        return run

    def packed_logp(lm: SidLM) -> Tensor:
        return score(lm, pack(prompts, listed, vocab)).logp.sum(-1)

    def frozen(logp: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():
            return logp()

    steps = {
        "packed": step(lambda: simpo(*all_pairs(packed_logp(model)))),
        "packed DPO": step(
            lambda: dpo(*all_pairs(packed_logp(model)), *all_pairs(frozen(lambda: packed_logp(reference))))
        ),
        "unique candidates": step(lambda: simpo(*all_pairs(row_logp(model, unique).view(lists, -1)))),
        "SimPO pairs": step(lambda: simpo(*row_logp(model, pairs).chunk(2))),
        "DPO pairs": step(
            lambda: dpo(*row_logp(model, pairs).chunk(2), *frozen(lambda: row_logp(reference, pairs)).chunk(2))
        ),
    }
    for run in steps.values():
        run.model = model  # type: ignore[attr-defined]
    return steps


def measured_step(variant: str, positives: int, negatives: int) -> Step:
    """For a fresh process: everything is built, nothing has run."""
    return variants(positives, negatives)[variant]


def gradient_difference(steps: dict[str, Step]) -> float:
    """Largest difference between the gradients of `packed` and `SimPO pairs`, over the largest gradient."""
    taken = []
    for name in ("packed", "SimPO pairs"):
        steps[name]()
        model: SidLM = steps[name].model  # type: ignore[attr-defined]
        taken.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    largest = max(float(g.abs().max()) for g in taken[1].values())
    return max(float((taken[0][n] - g).abs().max()) for n, g in taken[1].items()) / largest
