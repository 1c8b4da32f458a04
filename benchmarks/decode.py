"""Decode: beam 128 over a million random SIDs (8192/4096/2048), 8 layers, random weights, one
thread.

``ours`` is ``sidar.decode.beam_search`` with ``LmScorer``: prompt shared by all beams, head sliced
to the level, ragged index. The *floor* is the arithmetic that no implementation can leave out: the
GEMMs (qkv, o, gate-up, down) of one prefill (P rows) and of the beam steps (W rows), and the
level-sliced heads, as ``F.linear`` multiplies them; no attention scores, norms or top-k.
``floor_columns`` are the same products with positions as columns, as ours has them, which is faster
where there are few. ``ours_int8`` is held against fp32's floor and against ours in fp32 and bf16.
``generate`` is transformers' beam search with ``prefix_allowed_tokens_fn`` over the same index, on
the same weights as a plain causal LM (text and SID tokens in one vocabulary, full head). That it
finds the same SIDs with the same scores is shown with ``head="full"``, the same softmax, in the
same run.

Queries a second at batch 32 (searched as ``beam_search`` divides them) and one by one are timed
in turn, fp32 at d256. ``--bundle`` adds what bf16 and int8 cost a trained model: the share of the
fp32 answer's items that are in theirs, the titles of its catalogue being the queries.

    python benchmarks/decode.py            # the first setting with generate, the others without
    python benchmarks/decode.py --all      # generate in every setting (minutes)
    python benchmarks/decode.py --bundle FOLDER
"""

from __future__ import annotations

from common import interleave, print_table, process_cpu_timer, single_thread, write_results

single_thread()

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sidar.config import LmConfig
from sidar.decode import Beams, Trie, beam_search
from sidar.index import PrefixIndex, pack_keys
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.precision import DecodePrecision
from sidar.serve import Retriever
from sidar.types import Prompt

SIZES = (8192, 4096, 2048)
N_SIDS, BEAM, LAYERS, HEAD_DIM = 1_000_000, 128, 8, 64


class Setting(NamedTuple):
    hidden: int
    prompt: int
    batch: int

    def __str__(self) -> str:
        return f"d{self.hidden}_p{self.prompt}" + (f"_b{self.batch}" if self.batch > 1 else "")


SETTINGS = [Setting(256, 32, 1), Setting(512, 32, 1), Setting(256, 256, 1), Setting(256, 32, 8)]


def config(setting: Setting) -> LmConfig:
    """Qwen3 architecture, heads of 64, as many key-value heads, intermediate 4·d."""
    d = setting.hidden
    heads = d // HEAD_DIM
    return LmConfig(
        layers=LAYERS,
        hidden=d,
        heads=heads,
        kv_heads=heads,
        intermediate=4 * d,
        text_embeddings="random",
    )


def random_index(seed: int) -> PrefixIndex:
    """A million distinct random SIDs."""
    rng = np.random.default_rng(seed)
    drawn = np.unique(rng.integers(0, math.prod(SIZES), N_SIDS + 10_000))  # some 70 pairs collide
    codes = np.stack(np.unravel_index(rng.permutation(drawn)[:N_SIDS], SIZES), 1).astype(np.int32)
    return PrefixIndex.from_keys(pack_keys(codes, SIZES), SIZES)


def gemm_floor(
    setting: Setting, dtype: torch.dtype, beam: int = BEAM, *, columns: bool = False
) -> Callable[[], None]:
    """The products alone, with their own weights per layer, so that caches see what
    a model's do; ``columns``: of states that are columns.
    """
    d, inner = setting.hidden, 4 * setting.hidden
    blocks = [
        [torch.randn(o, i).to(dtype) for o, i in ((3 * d, d), (d, d), (2 * inner, d), (d, inner))]
        for _ in range(LAYERS)
    ]
    heads = [torch.randn(k, d).to(dtype) for k in SIZES]
    rows = [setting.batch * n for n in (setting.prompt, beam, beam)]
    inputs = [(torch.randn(n, d).to(dtype), torch.randn(n, inner).to(dtype)) for n in rows]
    asked = [torch.randn(n, d).to(dtype) for n in (setting.batch, rows[1], rows[2])]
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.linear
    if columns:
        inputs = [(x.t().contiguous(), h.t().contiguous()) for x, h in inputs]
        multiply = column_product

    @torch.inference_mode()
    def run() -> None:
        for (x, h), state, head in zip(inputs, asked, heads, strict=True):
            for qkv, o, gate_up, down in blocks:
                multiply(x, qkv)
                multiply(x, o)
                multiply(x, gate_up)
                multiply(h, down)
            F.linear(state, head)

    return run


def column_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(weight, x)


def causal_twin(model: SidLM) -> Any:
    """``model`` as a plain Hugging Face causal LM with SID tokens in its vocabulary and a full
    head.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {**model.backbone.config.to_dict(), "vocab_size": model.text_vocab + model.vocab.size}
    twin = Qwen3ForCausalLM(
        Qwen3Config(**{**shape, "tie_word_embeddings": False, "use_cache": True})
    )
    weights = {k: v for k, v in model.backbone.state_dict().items() if k != "embed_tokens.weight"}
    twin.model.load_state_dict(weights, strict=False)
    words = model.backbone.get_input_embeddings().weight
    with torch.no_grad():
        twin.get_input_embeddings().weight.copy_(torch.cat([words, model.sid_in]))
        twin.lm_head.weight.copy_(torch.cat([words, *model.heads, model.eos_head]))
    return twin.eval()


def generate(
    twin: Any, prompts: list[list[int]], index: PrefixIndex, model: SidLM, beam: int = BEAM
) -> Callable[[], Any]:
    """Constrained ``generate``; the prefix function answers from the CSR index, two bisections per
    beam.
    """
    shift = [model.text_vocab + offset for offset in model.vocab.offsets]
    p = len(prompts[0])
    tokens = torch.tensor(prompts)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        prefix = 0
        for depth, token in enumerate(ids[p:].tolist()):
            start, end = index.child_start[depth][prefix : prefix + 2]
            prefix = int(start) + int(
                np.searchsorted(index.codes[depth][start:end], token - shift[depth])
            )
        depth = len(ids) - p
        start, end = index.child_start[depth][prefix : prefix + 2]
        return (index.codes[depth][start:end].astype(np.int64) + shift[depth]).tolist()

    def run() -> Any:
        return twin.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            prefix_allowed_tokens_fn=allowed,
            num_beams=beam,
            num_return_sequences=beam,
            max_new_tokens=len(SIZES),
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )

    return run


def compare(beams: Beams, out: Any, model: SidLM, prompts: list[list[int]]) -> tuple[float, float]:
    """Share of ranks with the same SID, and the largest difference of scores over all ranks."""
    shift = np.array([model.text_vocab + offset for offset in model.vocab.offsets])
    theirs = out.sequences[:, len(prompts[0]) :].numpy().reshape(len(prompts), BEAM, -1) - shift
    scores = out.sequences_scores.float().numpy().reshape(len(prompts), BEAM)
    return float((theirs == beams.codes).all(-1).mean()), float(np.abs(scores - beams.scores).max())


def measure(
    setting: Setting, index: PrefixIndex, *, with_generate: bool, repeats: int, seed: int
) -> dict[str, float]:
    """Median CPU milliseconds of each variant; and how equal generate's answer is, if it ran."""
    torch.manual_seed(seed)
    model = SidLM.build(config(setting), SIZES, seed=seed).eval()
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, model.text_vocab, (setting.batch, setting.prompt)).tolist()
    trie = Trie(index)
    full = SidLM.build(config(setting).model_copy(update={"head": "full"}), SIZES, seed=seed).eval()
    scorers = {
        "ours": LmScorer(model),
        "ours_bf16": LmScorer(model, precision="bf16"),
        "ours_int8": LmScorer(model, precision="int8"),
        "ours_full_head": LmScorer(full),
    }
    variants: dict[str, Callable[[], Any]] = {
        "floor": gemm_floor(setting, torch.float32),
        "floor_bf16": gemm_floor(setting, torch.bfloat16),
        "floor_columns": gemm_floor(setting, torch.float32, columns=True),
        "floor_columns_bf16": gemm_floor(setting, torch.bfloat16, columns=True),
    }
    for name, scorer in scorers.items():
        variants[name] = lambda scorer=scorer: beam_search(
            scorer, prompts, trie, BEAM, batch=setting.batch
        )
    found: dict[str, float] = {}
    if with_generate:
        twin = causal_twin(full)
        variants["generate"] = generate(twin, prompts, index, full)
        variants["generate_bf16"] = generate(causal_twin(full).bfloat16(), prompts, index, full)
        same, apart = compare(variants["ours_full_head"](), variants["generate"](), full, prompts)
        found |= {"same_sids_as_generate": same, "max_score_difference_from_generate": apart}
    return {name: 1000 * seconds for name, seconds in interleave(variants, repeats).items()} | found


def batch_gain(index: PrefixIndex, *, repeats: int, seed: int) -> dict[str, float]:
    """Queries per CPU second one by one and 32 together, and their ratio (d256, fp32)."""
    setting, count = SETTINGS[0], 32
    scorer = LmScorer(SidLM.build(config(setting), SIZES, seed=seed).eval())
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, scorer.vocab.text_vocab, (count, setting.prompt)).tolist()
    trie, few = Trie(index), 8

    def one_by_one() -> None:
        for prompt in prompts[:few]:
            beam_search(scorer, [prompt], trie, BEAM)

    took = interleave(
        {"b1": one_by_one, "b32": lambda: beam_search(scorer, prompts, trie, BEAM)}, repeats
    )
    rates = {"b1": few / took["b1"], "b32": count / took["b32"]}
    return {
        **{f"queries_per_second_{name}": rate for name, rate in rates.items()},
        "queries_per_second_b32_over_b1": rates["b32"] / rates["b1"],
    }


def agreement(bundle: str, *, queries: int = 200) -> dict[str, float]:
    """Share of the fp32 answer's items in the answers of bf16 and int8, at 10 and at 100, by the
    model alone, and CPU milliseconds of a query; the queries are titles of the catalogue, evenly
    spread.
    """
    figures: dict[str, float] = {}
    answers: dict[str, list[np.ndarray]] = {}
    precisions: tuple[DecodePrecision, ...] = ("fp32", "bf16", "int8")
    for precision in precisions:
        retriever = Retriever.load(bundle, precision=precision)
        titles = retriever.catalogue.table.column("title").to_pylist()
        step = max(1, len(titles) // queries)
        prompts = [Prompt(title) for title in titles[::step][:queries]]
        retriever.hits(prompts[:1], 100)
        with process_cpu_timer() as seconds:
            hits = [retriever.hits([prompt], 100).rows[0] for prompt in prompts]
        answers[precision] = [rows[rows >= 0] for rows in hits]
        figures[f"bundle_{precision}_ms"] = 1000 * seconds[0] / len(prompts)
    for precision in ("bf16", "int8"):
        for k in (10, 100):
            shared = [
                len(set(exact[:k]) & set(rounded[:k])) / len(exact[:k])
                for exact, rounded in zip(answers["fp32"], answers[precision], strict=True)
            ]
            figures[f"bundle_{precision}_agrees_at_{k}"] = float(np.mean(shared))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--all", action="store_true", help="run transformers' generate in every setting"
    )
    parser.add_argument("--bundle", help="also measure what bf16 and int8 cost this bundle")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="transformers")
    index = random_index(args.seed)
    figures: dict[str, float] = {}
    rows = []
    for number, setting in enumerate(SETTINGS):
        with_generate = args.all or number == 0
        repeats = max(1, args.repeats // 3) if with_generate and number else args.repeats
        took = measure(setting, index, with_generate=with_generate, repeats=repeats, seed=args.seed)
        for name, value in took.items():
            is_time = not name.endswith("_from_generate") and not name.startswith("same_")
            figures[f"{name}_ms_{setting}" if is_time else f"{name}_{setting}"] = value
            if is_time:
                rows.append([str(setting), name, round(value, 1), round(value / took["floor"], 2)])
        figures[f"ours_over_gemm_floor_fp32_{setting}"] = took["ours"] / took["floor"]
        figures[f"ours_over_gemm_floor_bf16_{setting}"] = took["ours_bf16"] / took["floor_bf16"]
        for base in ("floor", "ours", "ours_bf16"):
            figures[f"ours_int8_over_{base}_{setting}"] = took["ours_int8"] / took[base]
        if with_generate:
            figures[f"generate_over_ours_fp32_{setting}"] = took["generate"] / took["ours"]
            figures[f"generate_bf16_over_ours_bf16_{setting}"] = (
                took["generate_bf16"] / took["ours_bf16"]
            )
    figures |= batch_gain(index, repeats=args.repeats, seed=args.seed)
    if args.bundle:
        figures |= agreement(args.bundle)
    print_table(
        ["setting", "variant", "CPU ms", "over fp32 floor"],
        rows,
        "beam 128 over 1M SIDs, 8 layers, 1 thread",
    )
    first = SETTINGS[0]
    print(
        "\nwith head=full, the same SIDs as generate at "
        f"{figures[f'same_sids_as_generate_{first}']:.1%} of the ranks, "
        f"scores apart by at most {figures[f'max_score_difference_from_generate_{first}']:.1e}"
    )
    about = {
        "beam": BEAM,
        "sids": N_SIDS,
        "codebook_sizes": SIZES,
        "architecture": "Qwen3, heads of 64, kv heads = heads, intermediate 4·d, random weights",
        "lm": {str(setting): config(setting).model_dump() for setting in SETTINGS},
        "bundle": "none" if args.bundle is None else Path(args.bundle).parent.name,
        "repeats": args.repeats,
        "seed": args.seed,
    }
    for name in ("queries_per_second_b1", "queries_per_second_b32"):
        print(f"{name}: {figures[name]:.1f}")
    print(write_results("decode", about, figures))


if __name__ == "__main__":
    main()
