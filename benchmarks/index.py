"""Building the prefix index of one million SIDs: time and bytes per SID.

The two figures are for the prefix arrays alone, from packed int64 keys that are not sorted.  Beside
them: building from the code table with the row map and priors, the row map's bytes, looking SIDs
up, and a nested dict of the same SIDs.
"""

from __future__ import annotations

import argparse
import sys

from common import interleave, print_table, single_thread, write_results

single_thread()

import numpy as np

from sidar.index import PrefixIndex, pack_keys
from sidar.types import SemanticIds

SIZES = (8192, 4096, 2048)


def random_codes(n: int, seed: int) -> np.ndarray:
    """(n, 3) int32 distinct uniform codes in random order: the hardest shape, every second-level
    prefix is its own.
    """
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n + n // 8, dtype=np.int32) for size in SIZES], axis=1)
    _, first = np.unique(pack_keys(codes, SIZES), return_index=True)
    return codes[rng.permutation(first)[:n]]


def nested_dict(codes: np.ndarray) -> dict[int, dict[int, set[int]]]:
    trie: dict[int, dict[int, set[int]]] = {}
    for a, b, c in codes.tolist():
        trie.setdefault(a, {}).setdefault(b, set()).add(c)
    return trie


def dict_bytes(trie: dict[int, dict[int, set[int]]]) -> int:
    total = sys.getsizeof(trie)
    for second in trie.values():
        total += sys.getsizeof(second) + sum(sys.getsizeof(third) for third in second.values())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    codes = random_codes(args.n, args.seed)
    keys = pack_keys(codes, SIZES)
    prior = np.random.default_rng(args.seed).random(args.n, dtype=np.float32)
    sids = SemanticIds(codes, np.full(args.n, 3, np.int32), SIZES)
    index = PrefixIndex.build(sids, prior)
    seconds = interleave(
        {
            "prefix arrays from keys": lambda: PrefixIndex.from_keys(keys, SIZES),
            "index from codes and priors": lambda: PrefixIndex.build(sids, prior),
            "look up every SID": lambda: index.lookup(codes),
        },
        args.repeats,
    )
    trie_seconds = interleave({"nested dicts": lambda: nested_dict(codes)}, 1, warmup=0)
    per_sid = index.nbytes / len(index)
    row_map = (index.rows.nbytes + index.rows_start.nbytes) / len(sids)
    per_dict = dict_bytes(nested_dict(codes)) / len(index)
    print_table(
        ["what", "CPU seconds", "bytes per SID"],
        [
            ["prefix arrays from keys", seconds["prefix arrays from keys"], per_sid],
            [
                "index from codes and priors",
                seconds["index from codes and priors"],
                per_sid + row_map,
            ],
            ["  of that the row map (per item)", 0.0, row_map],
            ["look up every SID", seconds["look up every SID"], 0.0],
            ["nested dicts (containers only)", trie_seconds["nested dicts"], per_dict],
        ],
        title=(
            f"{args.n:,} SIDs of {'/'.join(map(str, SIZES))}, one thread, medians of {args.repeats}"
        ),
    )
    figures = {
        "build_seconds_1m": seconds["prefix arrays from keys"],
        "bytes_per_sid_1m": per_sid,
        "build_from_codes_seconds_1m": seconds["index from codes and priors"],
        "row_map_bytes_per_item_1m": row_map,
        "lookup_seconds_1m": seconds["look up every SID"],
        "dict_build_seconds_1m": trie_seconds["nested dicts"],
        "dict_bytes_per_sid_1m": per_dict,
    }
    if args.n == 1_000_000:  # the figures' names promise a million
        path = write_results("index", {"n": args.n, "codebook_sizes": SIZES, **vars(args)}, figures)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
