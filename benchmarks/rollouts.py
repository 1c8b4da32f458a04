"""Rollouts: 16 SIDs for each of 32 prompts, out of a million random SIDs, on one thread.

The model is that of ``benchmarks/decode.py``: d 256, 8 layers, random weights, prompts of 32
tokens. Timed are the four methods of ``sidar.decode.sample``, transformers' ``generate(num_beams=
16)`` with ``prefix_allowed_tokens_fn`` over the same index on the same weights (full head), and
``LmScorer.refresh`` beside making a new scorer. ``generate`` is timed in one call for all prompts,
as ours is, and in calls of four, where its logits of the whole vocabulary are smaller and a prompt
costs it least; one such call is timed and multiplied by eight. The *floor* is the matrix products
alone, as in ``benchmarks/decode.py``, with the 17 rows of a prompt that the group and its threshold
need.

A GRPO step is what on-policy training does: refresh, rollouts (gumbel), a reward looked up in a
table, the packed forward and backward of the group, AdamW; with the objective ``grpo`` as it is by
default, which also asks the frozen reference, and with ``drgrpo``, which does not. Beside it a
packed step of SimPO on lists of as many candidates (1 positive) for the same prompts, with the
shared-prefix rates of ``benchmarks/preference_step.py``, and AdamW.

    python benchmarks/rollouts.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import interleave, print_table, single_thread, write_results

single_thread()

import argparse
import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from decode import SIZES, Setting, causal_twin, config, gemm_floor, generate, random_index
from preference_step import make_list

from sidar.align import objective
from sidar.config import AlignConfig
from sidar.decode import METHODS, Trie, sample
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, pack, score
from sidar.lm.scorer import LmScorer
from sidar.types import CandidateScores, Rollouts

GROUP, PROMPTS, FEW = 16, 32, 4
SETTING = Setting(256, 32, PROMPTS)
Step = Callable[[], Any]


def shares(rollouts: Rollouts, index: PrefixIndex) -> tuple[float, float]:
    """Share of outputs that are SIDs of the index, looked up by their codes, and share of outputs
    that no earlier one of their group equals.
    """
    valid = index.lookup(rollouts.codes.reshape(-1, len(SIZES))) >= 0
    groups = [{tuple(codes) for codes in group} for group in rollouts.codes.tolist()]
    return float(valid.mean()), sum(map(len, groups)) / valid.size


def trained(model: SidLM, name: str) -> tuple[Callable[[CandidateScores], None], AlignConfig]:
    """A function that descends the objective ``name`` once with AdamW, and its options."""
    cfg = AlignConfig(objective=name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def descend(scores: CandidateScores) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective(name).loss(scores, cfg)
        loss.backward()
        optimizer.step()

    return descend, cfg


def preference_step(model: SidLM, prompts: list[list[int]]) -> Step:
    """A packed step of SimPO on one list of 16 candidates for each prompt."""
    listed = [make_list(1, GROUP - 1, seed)[1] for seed in range(PROMPTS)]
    descend, _ = trained(model, "simpo")

    def run() -> None:
        descend(score(model, pack(prompts, listed, model.vocab)))

    return run


def grpo_step(model: SidLM, prompts: list[list[int]], trie: Trie, name: str) -> Step:
    """Refresh, draw, reward, score, descend."""
    descend, cfg = trained(model, name)
    scorer = LmScorer(model)
    compares = objective(name).compares_with_reference(cfg)
    reference = copy.deepcopy(model).requires_grad_(False) if compares else None
    rewards = np.random.default_rng(1).normal(size=trie.n_sids)
    steps = iter(range(1 << 30))

    def run() -> None:
        scorer.refresh()
        rollouts = sample(scorer, prompts, trie, GROUP, step=next(steps))
        listed = [
            [Candidate(tuple(codes), False) for codes in group] for group in rollouts.codes.tolist()
        ]
        packed = pack(prompts, listed, model.vocab)
        scores = score(model, packed)
        scores.rollout = scores.is_negative
        scores.is_negative = torch.zeros_like(scores.rollout)
        scores.reward = torch.from_numpy(rewards[rollouts.sids]).float()
        scores.inclusion = torch.from_numpy(rollouts.weight).float()
        if reference is not None:
            with torch.no_grad():
                scores.ref_logp = score(reference, packed).logp
        descend(scores)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="transformers")
    torch.manual_seed(args.seed)
    index = random_index(args.seed)
    trie = Trie(index)
    model = SidLM.build(config(SETTING), SIZES, seed=args.seed).eval()
    full = SidLM.build(
        config(SETTING).model_copy(update={"head": "full"}), SIZES, seed=args.seed
    ).eval()
    rng = np.random.default_rng(args.seed)
    prompts = rng.integers(1, model.text_vocab, (PROMPTS, SETTING.prompt)).tolist()
    scorer = LmScorer(model)
    variants: dict[str, Step] = {
        method: lambda method=method: sample(scorer, prompts, trie, GROUP, method=method)
        for method in METHODS
    }
    drawn = {method: shares(run(), index) for method, run in variants.items()}
    variants["refresh"] = scorer.refresh
    variants["new_scorer"] = lambda: LmScorer(model)
    twin = causal_twin(full)
    variants["floor"] = gemm_floor(SETTING, torch.float32, GROUP + 1)
    variants["generate"] = generate(twin, prompts, index, full, GROUP)
    variants["generate_in_fours"] = generate(twin, prompts[:FEW], index, full, GROUP)
    seconds = interleave(variants, args.repeats)
    seconds["generate_in_fours"] *= PROMPTS / FEW
    step_of = {
        "preference_step": preference_step(copy.deepcopy(model), prompts),
        "grpo_step": grpo_step(copy.deepcopy(model), prompts, trie, "grpo"),
        "drgrpo_step": grpo_step(copy.deepcopy(model), prompts, trie, "drgrpo"),
    }
    seconds |= interleave(step_of, args.repeats)

    figures = {f"{name}_s": value for name, value in seconds.items()}
    for method, (valid, unique) in drawn.items():
        figures |= {f"{method}_valid_share": valid, f"{method}_unique_share": unique}
    figures["valid_share"], figures["unique_share"] = drawn["gumbel"]
    figures["generate_over_ours"] = seconds["generate"] / seconds["gumbel"]
    figures["generate_in_fours_over_ours"] = seconds["generate_in_fours"] / seconds["gumbel"]
    figures["generate_over_beam"] = seconds["generate"] / seconds["beam"]
    figures["gumbel_over_gemm_floor"] = seconds["gumbel"] / seconds["floor"]
    figures["refresh_over_gumbel"] = seconds["refresh"] / seconds["gumbel"]
    for name in ("grpo", "drgrpo"):
        figures[f"{name}_step_over_preference_step"] = (
            seconds[f"{name}_step"] / seconds["preference_step"]
        )
    title = f"{GROUP} SIDs for {PROMPTS} prompts, 1M SIDs, d256, 8 layers, 1 thread"
    rows = [[name, value, value / seconds["gumbel"]] for name, value in seconds.items()]
    print_table(["variant", "CPU s", "over gumbel"], rows, title)
    print_table(
        ["method", "valid", "unique"], [[name, *pair] for name, pair in drawn.items()], "\nshares"
    )
    about = {
        "group": GROUP,
        "prompts": PROMPTS,
        "prompt_tokens": SETTING.prompt,
        "sids": index.n_sids,
        "codebook_sizes": SIZES,
        "lm": config(SETTING).model_dump(),
        "ours": "gumbel with level heads; generate with a full head on the same decoder",
        "generate_in_fours": f"one call of {FEW} prompts, times {PROMPTS // FEW}",
        "repeats": args.repeats,
        "seed": args.seed,
    }
    print(write_results("rollouts", about, figures))


if __name__ == "__main__":
    main()
