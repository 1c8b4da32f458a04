"""The GRPO family again, as loops over Python floats written straight from the papers.

A *list* is a dict of ``tests/lists_rollouts.py``: ``group`` (indices of members), ``reward``,
``expert``, ``valid``, ``foreign`` (rewards of other requests' SIDs), and ``logp, old, ref``.
"""

import math

from reference_align import mean, total


def group_advantages(rewards, std="sample", eps=1e-4):
    """A_i of one group."""
    if len(set(rewards)) <= 1:
        return [0.0] * len(rewards)
    centre = mean(rewards)
    squares = sum((r - centre) ** 2 for r in rewards)
    if std == "none":
        return [r - centre for r in rewards]
    deviation = math.sqrt(squares / (len(rewards) - (1 if std == "sample" else 0)))
    return [(r - centre) / (deviation + eps) for r in rewards]


def weighted_advantages(rewards, weights, std, eps):
    """A_i with weighted mean and deviation."""
    if len(set(rewards)) <= 1:
        return [0.0] * len(rewards)
    mass = sum(weights)
    centre = sum(w * r for w, r in zip(weights, rewards, strict=True)) / mass
    squares = sum(w * (r - centre) ** 2 for w, r in zip(weights, rewards, strict=True)) / mass
    if std == "sample":
        squares *= len(rewards) / (len(rewards) - 1)
    return [(r - centre) / (math.sqrt(squares) + eps) for r in rewards]


def is_positive(item, candidate):
    wanted = {item["all_tokens"][p] for p in item["positives"]}
    return item["all_tokens"][candidate] in wanted


def members(item, *, std, eps, spare_positives, inclusion):
    """(index, advantage, weight u) of each member."""
    rewards = [item["reward"][c] for c in item["group"]]
    if inclusion is None or "inclusion" not in item or inclusion == "biased":
        values, shares = group_advantages(rewards, std, eps), [1.0] * len(rewards)
    else:
        w = [item["inclusion"][c] for c in item["group"]]
        if std == "none":
            p = [math.exp(total(item["old"][c])) for c in item["group"]]
            base = sum(a * b for a, b in zip(w, rewards, strict=True))
            values = [r * (1 - p_i + w_i) - base for r, p_i, w_i in zip(rewards, p, w, strict=True)]
            shares = [len(w) * each for each in w]
        else:
            values = weighted_advantages(rewards, w, std, eps)
            shares = [len(w) * each / sum(w) for each in w]
    if spare_positives:
        values = [
            max(a, 0.0) if is_positive(item, c) else a
            for c, a in zip(item["group"], values, strict=True)
        ]
    return list(zip(item["group"], values, shares, strict=True))


def step_losses(item, candidate, advantage, *, ratio, low, high, kl):
    """The losses of one member's steps."""
    logp, old = item["logp"][candidate], item["old"][candidate]
    gaps = [a - b for a, b in zip(logp, old, strict=True)]
    if ratio == "sequence":
        gaps = [mean(gaps)] * len(gaps)
    elif ratio == "product":
        gaps = [total(gaps)] * len(gaps)
    losses = []
    for t, gap in enumerate(gaps):
        rho = math.exp(gap)
        bound = max(rho, 1 - low) if low else rho
        bound = min(bound, 1 + high) if high else bound
        loss = -min(rho * advantage, bound * advantage)
        if kl:
            d = item["ref"][candidate][t] - logp[t]
            loss += kl * (math.exp(d) - d - 1)
        losses.append(loss)
    return losses


def batch_mean(rows, normalise, levels):
    """The mean over lists of (alpha, [(share, losses of the steps)])."""
    if normalise == "token":
        summed = total([alpha * u * total(losses) for alpha, each in rows for u, losses in each])
        return summed / max(total([len(losses) for _, each in rows for _, losses in each]), 1)
    per_list = []
    for alpha, each in rows:
        values = [
            u * total(losses) / (len(losses) if normalise == "sequence" else levels)
            for u, losses in each
        ]
        per_list.append(alpha * mean(values) if values else 0.0)
    return total(per_list) / max(len(rows), 1)


def grpo(
    lists, *, ratio, normalise, std, clip_low, clip_high, kl, dynamic, spare_positives,
    eps=1e-4, inclusion="weighted", alphas=None,
):  # fmt: skip
    """The surrogate over a batch."""
    rows = []
    for b, item in enumerate(lists):
        if dynamic and len({item["reward"][c] for c in item["group"]}) <= 1:
            continue
        shares = members(
            item, std=std, eps=eps, spare_positives=spare_positives, inclusion=inclusion
        )
        losses = [
            (u, step_losses(item, c, a, ratio=ratio, low=clip_low, high=clip_high, kl=kl))
            for c, a, u in shares
        ]
        rows.append((1.0 if alphas is None else alphas[b], losses))
    return batch_mean(rows, normalise, lists[0]["levels"])


def mid_rank(value, others):
    return 1 + sum(o > value for o in others) + 0.5 * sum(o == value for o in others)


def gate(item, tau=0.25, rho=0.5, wording="inside"):
    """(difficult, discriminable, soft weight) of one prompt."""
    truth = item["all_tokens"][item["star"]]
    rivals, written, taken = [], False, set()
    for c in item["group"]:
        if c in item["expert"] or (item["valid"] is not None and not item["valid"][c]):
            continue
        tokens = item["all_tokens"][c]
        written |= tokens == truth
        if is_positive(item, c) or tokens in taken:
            continue
        taken.add(tokens)
        rivals.append(c)
    k = len(rivals) + written
    top = math.ceil(tau * k - 1e-9)
    by_policy = k + 1
    if written:
        own = total(item["logp"][item["star"]])
        by_policy = mid_rank(own, [total(item["logp"][c]) for c in rivals])
    reward, foreign = item["reward"][item["star"]], item["foreign"]
    others = [item["reward"][c] for c in rivals]
    by_reward = mid_rank(reward, others + foreign)
    line = (1 - rho) * (k + len(foreign) + 1)
    right = 0
    for i, v in enumerate(foreign):
        rank = mid_rank(v, [*others, reward, *foreign[:i], *foreign[i + 1 :]])
        right += (rank > line + 1e-9) == (wording == "inside")
    tested = bool(foreign) and {reward} != {reward, *others, *foreign}
    difficult = by_policy > top
    discriminable = tested and by_reward <= top and right == len(foreign)
    soft = 0.0
    if tested:
        ease = min((by_policy - 1) / max(k, 1), 1.0)
        trust = 1 - (by_reward - 1) / (len(others) + len(foreign))
        soft = ease * trust * right / len(foreign)
    return difficult, discriminable, soft


def recast(lists, *, ratio, normalise, clip_low, clip_high, kl, dynamic, threshold=0.0):
    """ReCast: the surrogate on the strongest rewarded and the hardest unrewarded member."""
    rows = []
    for item in lists:
        rewarded = [c for c in item["group"] if item["reward"][c] > threshold]
        wrong = [c for c in item["group"] if c not in rewarded and not is_positive(item, c)]
        strong = rewarded or ([item["star"]] if item["group"] else [])
        if not strong or not wrong:
            rows += [] if dynamic else [(1.0, [])]
            continue
        best = max(strong, key=lambda c: (item["reward"][c], total(item["logp"][c])))
        hard = max(wrong, key=lambda c: total(item["logp"][c]))
        losses = [
            (1.0, step_losses(item, c, a, ratio=ratio, low=clip_low, high=clip_high, kl=kl))
            for c, a in ((best, 1.0), (hard, -1.0))
        ]
        rows.append((1.0, losses))
    return batch_mean(rows, normalise, lists[0]["levels"])


def open_probability(size, perturbations, tau=0.25, rho=0.5, *, written):
    """How often a random reward without ties passes the discriminability test: GT on one of the top
    places, V on some of the bottom ones.
    """
    places = size + perturbations + (0 if written else 1)
    top = math.ceil(tau * size)
    bottom = places - math.floor((1 - rho) * (size + perturbations + 1))
    assert top <= places - bottom  # the two ranges do not meet
    return top / places * math.comb(bottom, perturbations) / math.comb(places - 1, perturbations)
