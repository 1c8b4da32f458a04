"""Several SIDs in one answer: packed in one row, scored as the model reads them one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference_lm import score_one

from sidar.decode import several_search
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, pack, score
from sidar.lm.candidates import in_one_answer
from sidar.lm.prompts import Encoded
from sidar.lm.scorer import LmScorer
from sidar.types import SemanticIds

Build = Callable[..., SidLM]
ANSWER = ((3, 1, 4), (3, 1, 5), (7, 0, 0))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("variable_length", [False, True])
def test_an_answer_in_one_row_scores_like_its_sids_one_by_one(
    tiny: Build, family: str, variable_length: bool, side: str
) -> None:
    model = tiny(family, variable_length=variable_length).eval()
    answer = ((3, 1), *ANSWER[1:]) if variable_length else ANSWER
    several, listed = in_one_answer([5, 9, 2, 11], answer, model.vocab)
    plain = [Candidate((1, 1, 1)), Candidate((1, 2, 1), True, 1)]
    shorter, more = in_one_answer([4, 4], ANSWER[:2], model.vocab)
    packed = pack([[7, 8, 3], several, shorter], [plain, listed, more], model.vocab, side=side)
    scores = score(model, packed, rdrw_state="eos_out")
    for b, (prompt, some) in enumerate([([5, 9, 2, 11], answer), ([4, 4], ANSWER[:2])], start=1):
        for c, codes in enumerate(some):
            steps, eos, state = score_one(model, prompt, Candidate(codes))
            got = scores.logp[b, c, : len(steps)]
            torch.testing.assert_close(got, torch.stack(steps), atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.eos_logp[b, c], eos, atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.hidden[b, c], state, atol=1e-4, rtol=0)
            prompt = model.vocab.continued(prompt, codes)
    for c, candidate in enumerate(plain):
        steps, _, _ = score_one(model, [7, 8, 3], candidate)
        got = scores.logp[0, c, : len(steps)]
        torch.testing.assert_close(got, torch.stack(steps), atol=1e-5, rtol=0)
    assert scores.first_logp is None  # of which place in a prompt?


def test_candidates_of_whole_prompts_are_packed_as_ever(tiny: Build) -> None:
    model = tiny()
    packed = pack(
        [[1, 2], [3]], [[Candidate((1, 1, 1), at=2)], [Candidate((1, 1, 1))]], model.vocab
    )
    assert packed.prompt_seen is None
    assert packed.n_asked[0] == 2


def test_a_model_answers_several_sids_with_the_score_of_its_own_pass(tiny: Build) -> None:
    model = tiny(seed=3).eval()
    codes = np.array([*ANSWER, (3, 2, 1)], np.int32)
    index = PrefixIndex.build(SemanticIds(codes, np.full(4, 3, np.int32), (16, 8, 8)))
    prompt = [5, 9, 2]
    found = several_search(LmScorer(model), [prompt], index, model.vocab.continued, 3, beam=40)
    assert (found.sids[0] >= 0).sum() == 4 * 3 * 2 * 3
    assert all(len(set(sids)) == 3 for sids in found.sids[0].tolist())
    for sids, said in zip(found.sids[0, ::5].tolist(), found.scores[0, ::5], strict=True):
        answer = tuple(tuple(int(code) for code in index.table[sid]) for sid in sids)
        tokens, listed = in_one_answer(prompt, answer, model.vocab)
        with torch.no_grad():
            scores = score(model, pack([tokens], [listed], model.vocab))
        assert float(scores.logp.sum()) == pytest.approx(float(said), abs=1e-4)


def test_places_outside_a_prompt_and_sentence_vectors_are_refused(tiny: Build) -> None:
    vocab = tiny().vocab
    for at in (0, 3):
        with pytest.raises(ValueError, match=rf"follows {at} tokens of a prompt of 2"):
            pack([[1, 2]], [[Candidate((1, 1, 1), at=at)]], vocab)
    read = Encoded([1, 2])
    read.vector = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"set lm.geometry: false"):
        pack([read], [[Candidate((1, 1, 1), at=1)]], vocab)
