from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sidar.lm.vocab import SidVocab
from sidar.types import SemanticIds

VOCAB = SidVocab((16, 8, 4), text_vocab=100)


def test_levels_have_disjoint_tokens_and_eos_is_last() -> None:
    tokens = [
        VOCAB.token(level, code)
        for level, k in enumerate(VOCAB.codebook_sizes)
        for code in range(k)
    ]
    assert tokens == list(range(28))
    assert (VOCAB.eos, VOCAB.size) == (28, 29)
    assert VOCAB.tokens((1, 2)) == [1, 18]


def test_spelling() -> None:
    assert [VOCAB.spell(t) for t in (0, 15, 16, 27, 28)] == [
        "<s1_0>",
        "<s1_15>",
        "<s2_0>",
        "<s3_3>",
        "<s_end>",
    ]
    assert len({VOCAB.spell(t) for t in range(VOCAB.size)}) == VOCAB.size


def test_choices_of_each_depth() -> None:
    free = SidVocab((16, 8, 4), variable_length=True)
    assert [VOCAB.n_codes(d) for d in range(4)] == [16, 8, 4, 4]
    assert [VOCAB.has_eos(d) for d in range(4)] == [False, False, False, True]
    assert [free.has_eos(d) for d in range(4)] == [False, True, True, True]


def test_errors_name_both_sides() -> None:
    with pytest.raises(ValueError, match="code 8 leaves level 2, which has 8 codes"):
        VOCAB.token(1, 8)
    with pytest.raises(ValueError, match="longer than the vocabulary's 3 levels"):
        VOCAB.tokens((1, 1, 1, 1))
    with pytest.raises(ValueError, match="depth 4 leaves 0 … 3"):
        VOCAB.n_codes(4)
    with pytest.raises(ValueError, match="positive"):
        SidVocab(())
    table = SemanticIds(np.zeros((1, 2), np.int32), np.full(1, 2, np.int32), (16, 8), version="v7")
    with pytest.raises(ValueError, match=r"3 levels \(16/8/4\).*'v7' has 2 \(16/8\).*sidar sft"):
        VOCAB.check_fits(table)


def test_importing_vocab_loads_no_torch() -> None:
    code = "import sys, sidar.lm.vocab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
