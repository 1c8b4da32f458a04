"""Everything that wants a GPU, once, in at most eight minutes: device tests, decoding against the
roofline, the packed preference step, rollouts.

    python benchmarks/gpu.py                  # on the first GPU; writes results/gpu.json
    python benchmarks/gpu.py --device cpu     # toy sizes, to see that it runs; writes nothing

Four parts, each in a process of its own with a budget of seconds.  A figure is on disk as soon as
it is measured, so a part that is cut, fails or runs out of memory keeps what it has; ``parts`` in
the results says how each ended.  The parts may be chosen: ``--parts decode,rollouts``.

  tests       ``pytest -m device`` with ``SIDAR_TEST_DEVICE``: search, recorded graphs, rollouts and
              the packed step against the CPU
  decode      beam 128, prompts of 300 tokens, over a million random SIDs of 8192³, at the shape of
              Qwen3-1.7B with random weights in bf16: with launches (``lean``) and with recorded
              graphs (``graphs``), at several batch sizes, over the *roofline*: per prefill and step
              the larger of FLOP / measured GEMM rate and bytes / measured bandwidth; and over the
              *GEMM floor*, the same products alone
  preference  forward and backward of SimPO on packed lists of 17 candidates (prompt 300) in bf16
              autocast, beside rows of prompt + SID per pair through the same model
  rollouts    16 different SIDs for each of 8 prompts by Gumbel top-k, and by a beam of 16

Times are wall-clock medians with the device idle before and after.  The word embeddings have 32,000
rows instead of Qwen3's 151,936: decoding reads none but the prompt's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import ROOT, print_table, write_results

#: Seconds of each part; with what starting them takes they stay below eight minutes.
BUDGET = {"tests": 110, "decode": 150, "preference": 90, "rollouts": 70}


@dataclass(frozen=True)
class Sizes:
    """Shape of the decoder and of what it reads and writes."""

    hidden: int = 2048
    layers: int = 28
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 6144
    text_vocab: int = 32_000
    codebooks: tuple[int, ...] = (8192, 8192, 8192)
    sids: int = 1_000_000
    beam: int = 128
    prompt: int = 300
    batches: tuple[int, ...] = (1, 8)
    group: int = 16
    prompts: int = 8  # of a call for rollouts
    lists: int = 4  # of a preference step
    negatives: int = 16
    gemm: int = 8192
    copied: int = 1 << 30  # bytes
    repeats: int = 10


TOY = Sizes(
    **{"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate": 48},
    **{"text_vocab": 50, "codebooks": (16, 16, 8), "sids": 300, "beam": 8, "prompt": 12},
    **{"batches": (1, 2), "group": 4, "prompts": 2, "lists": 2, "negatives": 3},
    **{"gemm": 64, "copied": 1 << 16, "repeats": 2},
)


class Bench:
    """A device, its sizes, and a file to which each figure goes as a line when it is there."""

    def __init__(self, device: str, sizes: Sizes, out: Path) -> None:
        import torch

        self.device, self.sizes, self.out = torch.device(device), sizes, out

    def note(self, **figures: float) -> None:
        with self.out.open("a") as file:
            for name, value in figures.items():
                file.write(json.dumps({name: value}) + "\n")

    def sync(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], repeats: int = 0) -> float:
        """Median wall-clock seconds of ``run`` after one run that is not counted."""
        taken = []
        for turn in range(1 + (repeats or self.sizes.repeats)):
            self.sync()
            started = time.perf_counter()
            run()
            self.sync()
            if turn:
                taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def model(self) -> Any:
        """A SidLM of the sizes, whose weights are drawn on the device: on a CPU that takes long."""
        import torch
        from transformers import Qwen3Config, Qwen3Model
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

        from sidar.lm.backbone import Backbone, kernel
        from sidar.lm.model import SidLM
        from sidar.lm.store import SidLMConfig

        sizes = self.sizes
        config = Qwen3Config(
            vocab_size=sizes.text_vocab,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            max_position_embeddings=2048,
            use_cache=False,
        )
        config._attn_implementation = kernel("auto")
        with torch.device("meta"):
            decoder = Qwen3Model(config)
        decoder = decoder.to_empty(device=self.device)
        # its frequencies are no weights and would stay empty
        decoder.rotary_emb = Qwen3RotaryEmbedding(config).to(self.device)
        facts = SidLMConfig(sizes.codebooks, sizes.text_vocab, False, "random", "none")
        model = SidLM(facts, Backbone(decoder, None, None, "none")).to(self.device)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(std=sizes.hidden**-0.5)
        return model.eval()

    def trie(self) -> Any:
        """A million distinct random SIDs on the device."""
        import numpy as np

        from sidar.decode import Trie
        from sidar.index import PrefixIndex, pack_keys

        sizes, rng = self.sizes, np.random.default_rng(0)
        drawn = np.unique(rng.integers(0, math.prod(sizes.codebooks), sizes.sids + sizes.sids // 9))
        kept = rng.permutation(drawn)[: sizes.sids]
        codes = np.stack(np.unravel_index(kept, sizes.codebooks), 1).astype(np.int32)
        index = PrefixIndex.from_keys(pack_keys(codes, sizes.codebooks), sizes.codebooks)
        return Trie(index, self.device)

    def prompts(self, count: int) -> list[list[int]]:
        import numpy as np

        rng = np.random.default_rng(1)
        return rng.integers(1, self.sizes.text_vocab, (count, self.sizes.prompt)).tolist()


@dataclass(frozen=True)
class Rates:
    """What the device can do, measured: bf16 products and copies."""

    flop_per_second: float
    bytes_per_second: float

    @classmethod
    def measure(cls, bench: Bench) -> Rates:
        import torch

        n, size = bench.sizes.gemm, bench.sizes.copied
        a = torch.randn(n, n, device=bench.device).bfloat16()
        b = torch.randn(n, n, device=bench.device).bfloat16()
        product = bench.seconds(lambda: a @ b)
        source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        # read once and written once
        copied = bench.seconds(lambda: target.copy_(source))
        rates = cls(2 * n**3 / product, 2 * size / copied)
        bench.note(
            gemm_bf16_tflops=rates.flop_per_second / 1e12,
            bandwidth_gb_per_second=rates.bytes_per_second / 1e9,
        )
        return rates

    def roofline(self, sizes: Sizes, batch: int) -> float:
        """Seconds that a beam search cannot go below at these rates.

        Per prefill and step: the blocks' weights in bf16 are read once and used for every row, keys
        and values of the prompts (fp32) once, the level's head (fp32) once.
        """
        wide = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
        block = sizes.hidden * (wide + sizes.heads * sizes.head_dim + 3 * sizes.intermediate)
        weights = block * sizes.layers
        cached = 2 * sizes.kv_heads * sizes.head_dim * sizes.layers * sizes.prompt * batch
        total = 0.0
        for level, codes in enumerate(sizes.codebooks):
            rows = batch * (sizes.beam if level else sizes.prompt)
            asked = batch * (sizes.beam if level else 1)
            reads = sizes.prompt if level else sizes.prompt / 2  # causal
            attention = 4 * rows * reads * sizes.heads * sizes.head_dim * sizes.layers
            flop = 2 * weights * rows + 2 * codes * sizes.hidden * asked + attention
            moved = 2 * weights + 4 * cached + 4 * codes * sizes.hidden
            total += max(flop / self.flop_per_second, moved / self.bytes_per_second)
        return total


def gemm_floor(bench: Bench, scorer: Any, batch: int) -> Callable[[], None]:
    """The products of one search alone, with the model's own weights."""
    import torch
    import torch.nn.functional as F

    sizes, blocks = bench.sizes, scorer.engine.blocks
    inputs = []
    for level, head in enumerate(scorer._heads):
        rows = batch * (sizes.beam if level else sizes.prompt)
        asked = batch * (sizes.beam if level else 1)
        shapes = (sizes.hidden, sizes.heads * sizes.head_dim, sizes.intermediate)
        x, mixed, inner = (
            torch.randn(rows, n, device=bench.device, dtype=blocks[0].qkv.dtype) for n in shapes
        )
        inputs.append((x, mixed, inner, torch.randn(asked, sizes.hidden, device=x.device), head))

    @torch.inference_mode()
    def run() -> None:
        for x, mixed, inner, state, head in inputs:
            for block in blocks:
                F.linear(x, block.qkv)
                F.linear(mixed, block.o)
                F.linear(x, block.gate_up)
                F.linear(inner, block.down)
            F.linear(state, head)

    return run


def decode(bench: Bench) -> None:
    """Beam search with and without recorded graphs, over both floors."""
    from sidar.decode import beam_search
    from sidar.lm.scorer import LmScorer

    rates = Rates.measure(bench)
    model, trie = bench.model(), bench.trie()
    plain, graphs = (LmScorer(model, precision="bf16", engine=name) for name in ("lean", "graphs"))
    for batch in bench.sizes.batches:
        prompts, beam = bench.prompts(batch), bench.sizes.beam
        roofline = rates.roofline(bench.sizes, batch)
        floor = bench.seconds(gemm_floor(bench, plain, batch))
        bench.note(
            **{f"roofline_ms_b{batch}": 1000 * roofline, f"gemm_floor_ms_b{batch}": 1000 * floor}
        )
        found = {}
        for name, scorer in (("lean", plain), ("graphs", graphs)):
            search = partial(beam_search, scorer, prompts, trie, beam, batch=batch)
            took = bench.seconds(search)
            found[name] = search()
            bench.note(
                **{
                    f"decode_{name}_ms_b{batch}": 1000 * took,
                    f"decode_{name}_over_roofline_b{batch}": took / roofline,
                    f"decode_{name}_over_gemm_floor_b{batch}": took / floor,
                    f"decode_{name}_queries_per_second_b{batch}": batch / took,
                }
            )
        same = (found["lean"].sids == found["graphs"].sids).mean()
        bench.note(**{f"graphs_same_sids_share_b{batch}": float(same)})
    _memory(bench, "decode")


def preference(bench: Bench) -> None:
    """A packed SimPO step, and the same loss from rows of prompt + SID per pair."""
    import torch

    from sidar.lm import pack, score
    from sidar.precision import autocast

    sizes, model = bench.sizes, bench.model().train()
    vocab = model.vocab
    listed = candidates(sizes, sizes.lists)
    prompts = bench.prompts(sizes.lists)

    def step(prompts: list[list[int]], lists: list[list[Any]]) -> None:
        packed = pack(prompts, lists, vocab).to(bench.device)
        model.zero_grad(set_to_none=True)
        with autocast(bench.device, "bf16"):
            logp = score(model, packed).logp.sum(-1)
        torch.nn.functional.softplus(0.5 - (logp[:, :1] - logp[:, 1:])).mean().backward()

    _reset_memory(bench)
    took = bench.seconds(lambda: step(prompts, listed))
    tokens = sizes.lists * sizes.prompt
    bench.note(
        preference_step_ms=1000 * took,
        preference_lists_per_second=sizes.lists / took,
        preference_prompt_tokens_per_second=tokens / took,
    )
    _memory(bench, "preference")
    # one list: all pairs of several do not fit a GPU
    alone = bench.seconds(lambda: step(prompts[:1], listed[:1]))
    bench.note(preference_step_one_list_ms=1000 * alone)
    _reset_memory(bench)
    pairs = [[listed[0][0], rejected] for rejected in listed[0][1:]]
    took = bench.seconds(lambda: step([prompts[0]] * len(pairs), pairs), max(1, sizes.repeats // 3))
    bench.note(preference_pairs_one_list_ms=1000 * took, preference_pairs_over_packed=took / alone)
    _memory(bench, "preference_pairs")


def candidates(sizes: Sizes, lists: int) -> list[list[Any]]:
    """A positive and negatives per list, a third of which begin as the positive does."""
    import numpy as np

    from sidar.lm import Candidate

    rng = np.random.default_rng(2)
    found = []
    for _ in range(lists):
        main = [int(rng.integers(k)) for k in sizes.codebooks]
        codes = {tuple(main): None}
        while len(codes) <= sizes.negatives:
            drawn = [int(rng.integers(k)) for k in sizes.codebooks]
            if rng.random() < 1 / 3:
                drawn[0] = main[0]
            codes[tuple(drawn)] = None
        found.append([Candidate(c, i == 0, int(i == 0)) for i, c in enumerate(codes)])
    return found


def rollouts(bench: Bench) -> None:
    """Groups of different SIDs, drawn and by a beam."""
    from sidar.decode import sample
    from sidar.lm.scorer import LmScorer

    sizes, model, trie = bench.sizes, bench.model(), bench.trie()
    prompts = bench.prompts(sizes.prompts)
    for engine in ("lean", "graphs"):
        scorer = LmScorer(model, precision="bf16", engine=engine)
        for method in ("gumbel", "beam"):
            draw = partial(sample, scorer, prompts, trie, sizes.group, method=method)
            took = bench.seconds(draw)
            drawn = draw()
            different = [len({tuple(codes) for codes in group}) for group in drawn.codes.tolist()]
            name = f"rollouts_{method}_{engine}"
            bench.note(
                **{
                    f"{name}_ms": 1000 * took,
                    f"{name}_prompts_per_second": sizes.prompts / took,
                    f"{name}_valid_share": float((drawn.sids >= 0).mean()),
                    f"{name}_unique_share": sum(different) / drawn.sids.size,
                }
            )
        bench.note(**{f"refresh_{engine}_ms": 1000 * bench.seconds(scorer.refresh, 2)})
    _memory(bench, "rollouts")


def _reset_memory(bench: Bench) -> None:
    import torch

    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(bench: Bench, name: str) -> None:
    import torch

    if bench.device.type == "cuda":
        bench.note(**{f"{name}_peak_gb": torch.cuda.max_memory_allocated() / 1e9})


def tests(bench: Bench) -> None:
    """``pytest -m device`` on the device; its counts are the figures."""
    report = bench.out.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "device", f"--junitxml={report}"]
    environment = {**os.environ, "SIDAR_TEST_DEVICE": str(bench.device)}
    # the folder alone: collecting the whole suite takes half of the budget
    done = subprocess.run([*command, str(ROOT / "tests" / "device")], cwd=ROOT, env=environment)
    from xml.etree import ElementTree

    suite = ElementTree.parse(report).getroot()[0].attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    bench.note(device_tests=float(suite["tests"]), device_tests_failed=failed)
    if done.returncode:
        raise SystemExit(done.returncode)


PARTS: dict[str, Callable[[Bench], None]] = {
    "tests": tests,
    "decode": decode,
    "preference": preference,
    "rollouts": rollouts,
}


def run_part(command: Sequence[str], seconds: float) -> str:
    """Run a part in a process of its own and return how it ended: ``done``, ``cut`` at its budget
    of ``seconds``, or ``failed``.
    """
    part = subprocess.Popen(command, start_new_session=True)
    try:
        return "done" if part.wait(seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
        # with what it started itself
        os.killpg(part.pid, signal.SIGKILL)
        part.wait()
        return "cut"


def read_figures(path: Path) -> dict[str, float]:
    """Return what a part has noted; a line that was cut in the middle is left out."""
    figures: dict[str, float] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            figures |= json.loads(line)
        except json.JSONDecodeError:
            continue
    return figures


def main() -> None:
    import tempfile

    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="Default: cuda where there is one, else cpu.")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="Factor of all budgets.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    if args.one:
        PARTS[args.one](Bench(device, Sizes() if on_gpu else TOY, args.out))
        return
    figures: dict[str, float] = {}
    ended: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts.split(","):
            out = Path(folder) / f"{part}.jsonl"
            command = [sys.executable, __file__, "--one", part, "--device", device]
            started = time.perf_counter()
            ended[part] = run_part([*command, "--out", str(out)], args.scale * BUDGET[part])
            figures |= read_figures(out)
            figures[f"{part}_part_seconds"] = time.perf_counter() - started
            if on_gpu:  # after every part, so that nothing is lost if this process is cut
                sizes = asdict(Sizes())
                write_results("gpu", sizes, figures, parts=ended)
    print_table(["figure", "value"], [[name, float(value)] for name, value in figures.items()])
    print(", ".join(f"{part}: {end}" for part, end in ended.items()))
    if not all(end == "done" for end in ended.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
