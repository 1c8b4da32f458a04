"""Recall of the training validator: shares of positives among eight SIDs, against beams that are
searched here.
"""

import pytest
from toy_train import tiny_model, toy_sids, write_backbone

from sidar.decode import beam_search
from sidar.index import PrefixIndex
from sidar.lm.candidates import Candidate
from sidar.lm.scorer import LmScorer
from sidar.train.examples import Example
from sidar.train.validate import Validator

BEAM = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, its index, three prompts and the SIDs of each prompt's beam, best first."""
    model = tiny_model(write_backbone(tmp_path_factory.mktemp("backbone"))).eval()
    index = PrefixIndex.build(toy_sids())
    prompts = [[1, 5, 9, 12], [2, 6], [3]]
    beams = beam_search(LmScorer(model, precision="fp32"), prompts, index, BEAM)
    ranked = [[tuple(codes) for codes in one] for one in beams.codes.tolist()]
    return model, index, prompts, ranked


def recall(world, positives, negatives=(), beam=BEAM):
    """recall@8 of examples with the SIDs at the given places of each prompt's beam; −1 = a SID
    outside it.
    """
    model, index, prompts, ranked = world
    everything = {tuple(codes) for codes in toy_sids().codes.tolist()}
    examples = []
    for prompt, sids, right, wrong in zip(
        prompts, ranked, positives, negatives or [[]] * 3, strict=True
    ):
        outside = sorted(everything - {*sids})
        chosen = [(sids[place] if place >= 0 else outside[place], True) for place in right]
        chosen += [(sids[place], False) for place in wrong]
        candidates = [
            Candidate(codes, is_positive, tier=int(is_positive)) for codes, is_positive in chosen
        ]
        examples.append(Example(prompt, candidates, is_list=True))
    return Validator(examples, index, beam=beam, precision="fp32")(model)["recall@8"]


def test_recall_is_the_mean_share_of_each_prompts_positives(world):
    assert recall(world, [[0, -1], [3, 7, -1, -2], [-1]]) == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert recall(world, [[0, 1, 2, 3, -1], [5], [6]]) == pytest.approx((4 / 5 + 1 + 1) / 3)


def test_recall_ends_at_eight_however_wide_the_beam(world):
    assert recall(world, [[7], [7], [7]]) == 1.0
    assert recall(world, [[8], [8, 0], [15]]) == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert recall(world, [[7], [0], [0]], beam=1) == pytest.approx(
        recall(world, [[7], [0], [0]], beam=8)
    )


def test_a_negative_that_is_written_first_is_no_hit(world):
    assert recall(world, [[-1], [-1], [2]], negatives=[[0], [0, 1], [0]]) == pytest.approx(1 / 3)
