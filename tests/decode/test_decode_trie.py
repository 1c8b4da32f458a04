"""The torch view of an index against the index itself."""

import numpy as np
import pytest
import reference_decode as slow
import torch

from sidar.decode import Trie
from sidar.index import PrefixIndex

WIDE = [
    (69_999, 40_000, 1),
    (69_999, 49_999, 0),
    (69_999, 49_999, 2),
    (3, 32_768, 2),
    (3, 0, 0),
    (68_000, 7, 1),
]
SHORT = [(2,), (2, 1), (2, 1, 0), (2, 1, 2), (0, 3, 1), (4, 4)]


@pytest.mark.parametrize(("tuples", "sizes"), [(WIDE, (70_000, 50_000, 3)), (SHORT, (5, 5, 3))])
def test_children_codes_and_sids(tuples, sizes):
    index = PrefixIndex.build(slow.sid_table(tuples, sizes))
    trie = Trie(index)
    paths = [[()]]  # per depth, the codes of every prefix by id
    for depth in range(3):
        known = paths[-1]
        prefixes = torch.arange(len(known)).flip(0)
        asked = torch.cat([prefixes, torch.tensor([-1])])
        rows, ids, codes, counts = trie.children(depth, asked)
        assert counts.tolist()[-1] == 0  # prefix −1 has no children
        assert torch.bincount(rows, minlength=len(asked)).tolist() == counts.tolist()
        below = {
            (*known[asked[row]], code): i
            for row, code, i in zip(rows.tolist(), codes.tolist(), ids.tolist(), strict=True)
        }
        live = {t[: depth + 1] for t in tuples if len(t) > depth}
        assert set(below) == live
        paths.append(sorted(below, key=below.get))
        assert sorted(below.values()) == list(range(len(live)))
        found = trie.sid_of(depth + 1, torch.tensor([-1, *range(len(live))]))
        numbers = {tuple(c for c in row if c >= 0): n for n, row in enumerate(index.table.tolist())}
        assert found.tolist() == [-1] + [numbers.get(path, -1) for path in paths[-1]]
        lowest = trie.first_sid(depth + 1, torch.arange(len(live)))
        assert lowest.tolist() == [
            min(n for t, n in numbers.items() if t[: depth + 1] == path) for path in paths[-1]
        ]


def test_the_view_shares_the_indexs_memory():
    index = PrefixIndex.build(slow.sid_table(SHORT, (5, 5, 3)))
    trie = Trie(index)
    assert all(
        np.shares_memory(start.numpy(), theirs)
        for start, theirs in zip(trie._start, index.child_start, strict=True)
    )


def test_a_read_only_index_is_copied_without_a_warning():
    index = PrefixIndex.build(slow.sid_table(SHORT, (5, 5, 3)))
    for array in (*index.codes, *index.child_start, *index.sid_of):
        array.flags.writeable = False
    assert Trie(index).sid_of(1, torch.tensor([0, 1])).tolist() == [-1, 1]


def test_codes_are_kept_in_a_type_that_every_device_gathers():
    """torch indexes no uint16 on an accelerator; the CPU would not tell."""
    index = PrefixIndex.build(slow.sid_table([(0, 1), (70_000, 2)], (70_001, 65_536)))
    assert [codes.dtype for codes in index.codes] == [np.int32, np.uint16]
    assert [codes.dtype for codes in Trie(index)._codes] == [torch.int32, torch.int16]
