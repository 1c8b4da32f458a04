"""What is logged beside the loss."""

import math

import pytest
import torch
from lists_align import as_dicts, one_list, random_lists
from reference_align import common_prefix, mean

from sidar.align import SimilarityWindow, gradient_ratio, list_statistics, objective, take_rows
from sidar.config import AlignConfig


def test_statistics_equal_a_loop():
    scores = random_lists(11, variable=True, codes=2)
    pairs, others = [], []
    for item in as_dicts(scores):
        star = item["star"]
        pairs += [
            (item["tokens"][star], item["tokens"][j], item["logp"][star], item["logp"][j])
            for j in item["negatives"]
        ]
        others += [sum(item["logp"][p]) for p in item["positives"] if p != star]
    stats = list_statistics(scores)
    prefixes = [common_prefix(a, b) for a, b, _, _ in pairs]
    assert stats["pairs/count"] == len(pairs)
    assert stats["pairs/shared1"].item() == pytest.approx(mean([k >= 1 for k in prefixes]))
    assert stats["pairs/shared2"].item() == pytest.approx(mean([k >= 2 for k in prefixes]))
    assert stats["pairs/accuracy"].item() == pytest.approx(
        mean([mean(a) > mean(b) for _, _, a, b in pairs])
    )
    assert stats["logp/other_positives"].item() == pytest.approx(mean(others))


def test_first_level_entropy_and_top():
    scores = random_lists(0)
    scores.first_logp = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()
    stats = list_statistics(scores)
    assert stats["first/entropy"].item() == pytest.approx(1.5 * math.log(2) / 2, abs=1e-6)
    assert stats["first/top"].item() == pytest.approx(0.75)


def test_quantities_that_a_batch_does_not_define_are_left_out():
    scores = take_rows(random_lists(0), torch.tensor([3]))  # the list without negatives
    assert not any(name.startswith("pairs/") for name in list_statistics(scores))


def test_gradient_ratio_is_the_quotient_of_the_norms():
    """Three equal scores of one token: |∂L_PL| is β·¼ on y_w and β·¼/3 on each negative under
    print, SFT's is 1.
    """
    scores = one_list((-1.0, -1.0, -1.0), -1.0)
    parts = objective("raddpo-paper").parts(
        scores, AlignConfig(beta=1.0, rdrw=False, tlgd=False), None
    )
    want = 0.25 * math.sqrt(1 + 3 / 9)
    assert gradient_ratio(parts.contrast, parts.sft, scores.logp).item() == pytest.approx(
        want, abs=1e-6
    )


def test_print_on_long_lists_is_called_inactive():
    scores = one_list((-1.0,) * 30, -1.0)
    parts = objective("raddpo-paper").parts(scores, AlignConfig(rdrw=False), SimilarityWindow())
    assert gradient_ratio(parts.contrast, parts.sft, scores.logp) < 0.01
    parts = objective("raddpo").parts(scores, AlignConfig(beta=2.0, rdrw=False), None)
    assert gradient_ratio(parts.contrast, parts.sft, scores.logp) > 1


def test_the_similarity_is_compared_with_the_shared_prefix():
    import numpy as np
    from reference_align import cosine

    scores = random_lists(11, codes=2)
    _, logs = objective("raddpo").loss(scores, AlignConfig(), SimilarityWindow(size=8))
    pairs = []
    for item in as_dicts(scores):
        for j in item["negatives"]:
            sim = cosine(item["state"][item["star"]], item["state"][j])
            pairs.append((sim, common_prefix(item["tokens"][item["star"]], item["tokens"][j])))
    assert logs["rdrw/prefix_correlation"].item() == pytest.approx(
        np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-6
    )
    assert "rdrw/length_correlation" not in logs  # one length: there is nothing to tell apart


def test_one_pair_alone_has_no_correlation():
    scores = random_lists(11, codes=2)
    kept = scores.is_negative.nonzero()[0]
    scores.is_negative[:] = False
    scores.is_negative[kept[0], kept[1]] = True
    _, logs = objective("raddpo").loss(scores, AlignConfig(), SimilarityWindow(size=8))
    assert not {"rdrw/prefix_correlation", "rdrw/length_correlation"} & set(logs)


def test_the_similarity_is_compared_with_equal_length():
    import numpy as np
    from reference_align import cosine

    scores = random_lists(12, variable=True)
    length = (scores.tokens >= 0).sum(-1)
    scores.hidden[length == 2] += 4  # states that say how long an SID is, and little else
    scores.hidden[length == 4] -= 4
    _, logs = objective("raddpo").loss(scores, AlignConfig(), SimilarityWindow(size=8))
    pairs = []
    for item in as_dicts(scores):
        star = item["star"]
        for j in item["negatives"]:
            same = len(item["tokens"][star]) == len(item["tokens"][j])
            pairs.append((cosine(item["state"][star], item["state"][j]), float(same)))
    want = np.corrcoef(np.array(pairs).T)[0, 1]
    assert want > 0.5
    assert logs["rdrw/length_correlation"].item() == pytest.approx(want, abs=1e-6)
