"""The objectives again, as loops over Python floats written straight from the papers; slow and
obvious.

A *list* is a dict: ``star`` (index), ``positives`` and ``negatives`` (indices), and per candidate
its counted ``tokens`` and per-token ``logp`` (and ``ref`` log-probs, and a ``state`` vector).
"""

import math


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > -30 else x - math.log1p(math.exp(x))


def total(values):
    return sum(values)


def mean(values):
    return sum(values) / len(values)


def weight_of(item, candidate):
    """The candidate's given weight; 1 where the list carries none."""
    return item["weight"][candidate] if "weight" in item else 1.0


def eq1(lists, positives="mean", which="all", eos=None):
    """L_SFT = −1/|Y_pos| Σ_y v_y log π(y|x), averaged over prompts; flat: over (prompt, positive)
    pairs.
    """
    per_prompt, flat = [], []
    for b, item in enumerate(lists):
        wanted = item["positives"] if which == "all" else [item["star"]]
        nlls = [
            weight_of(item, c) * (-total(item["logp"][c]) - (0.0 if eos is None else eos[b][c]))
            for c in wanted
        ]
        per_prompt.append(mean(nlls) if nlls else 0.0)
        flat += nlls
    return mean(flat) if positives == "flat" else mean(per_prompt)


def common_prefix(a, b):
    k = 0
    while k < min(len(a), len(b)) and a[k] == b[k]:
        k += 1
    return k


def eq6(sim, q25, q50, q75, lam=12.0):
    # coinciding quartiles: equal up to rounding is neither below nor above
    same = 1e-6 if q75 - q25 < 1e-6 else 0.0
    if sim < q25 - same:
        return 1.0
    if sim > q75 + same:
        return 0.5
    return 0.5 + 0.5 / (1.0 + math.exp(lam * (sim - q50)))


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def pl_loss(r_w, rewards, weights, beta, form, inside):
    """Eq. 7 for one list: rewards and weights of the negatives."""
    b_in, b_out = (beta, 1.0) if inside else (1.0, beta)
    if form == "printed":
        z = math.log(
            sum(w * math.exp(b_in * (r_w - r)) for w, r in zip(weights, rewards, strict=True))
        )
    else:
        z = -math.log(
            sum(w * math.exp(-b_in * (r_w - r)) for w, r in zip(weights, rewards, strict=True))
        )
    return -log_sigmoid(b_out * z)


def raddpo(
    lists, *, beta=2.0, form="softmax", inside=False, quartiles=None, contrast="global", fixed=None
):
    """L_PL over a batch; ``quartiles`` None = warm-up (w = 1); ``fixed`` = w of every negative.

    Given weights: a factor of w_j, and y_w*'s of its list's loss.
    """
    losses = []
    for item in lists:
        if not item["negatives"]:
            losses.append(0.0)
            continue
        r = [mean(lp) if lp else 0.0 for lp in item["logp"]]
        weights = []
        for j in item["negatives"]:
            if fixed is not None:
                w = fixed
            elif quartiles is None:
                w = 1.0
            else:
                w = eq6(cosine(item["state"][item["star"]], item["state"][j]), *quartiles)
            weights.append(w * weight_of(item, j))
        r_w, r_neg = r[item["star"]], [r[j] for j in item["negatives"]]
        if contrast == "global":
            loss = pl_loss(r_w, r_neg, weights, beta, form, inside)
        else:
            pairs = zip(r_neg, weights, strict=True)
            loss = mean([pl_loss(r_w, [rj], [wj], beta, form, inside) for rj, wj in pairs])
        losses.append(weight_of(item, item["star"]) * loss)
    return mean(losses)


def _ratios(item):
    return [total(lp) - total(ref) for lp, ref in zip(item["logp"], item["ref"], strict=True)]


def dpo(lists, beta=0.1):
    losses = []
    for item in lists:
        ratio = _ratios(item)
        pairs = [-log_sigmoid(beta * (ratio[item["star"]] - ratio[j])) for j in item["negatives"]]
        losses.append(mean(pairs) if pairs else 0.0)
    return mean(losses)


def sdpo(lists, beta=1.0):
    losses = []
    for item in lists:
        ratio = _ratios(item)
        temp = sum(math.exp(beta * (ratio[j] - ratio[item["star"]])) for j in item["negatives"])
        losses.append(-log_sigmoid(-math.log(temp)) if item["negatives"] else 0.0)
    return mean(losses)


def dmpo(lists, beta=0.1):
    losses = []
    for item in lists:
        ratio = _ratios(item)
        negatives = [ratio[j] for j in item["negatives"]]
        losses.append(
            -log_sigmoid(beta * ratio[item["star"]] - beta * mean(negatives)) if negatives else 0.0
        )
    return mean(losses)


def simpo(lists, beta=2.0, gamma_over_beta=0.25):
    losses = []
    for item in lists:
        r_w = mean(item["logp"][item["star"]])
        pairs = [
            -log_sigmoid(beta * (r_w - mean(item["logp"][j]) - gamma_over_beta))
            for j in item["negatives"]
        ]
        losses.append(mean(pairs) if pairs else 0.0)
    return mean(losses)


def orpo(lists, lam=0.1):
    losses = []
    for item in lists:
        p_w = math.exp(min(mean(item["logp"][item["star"]]), -1e-6))
        terms = []
        for j in item["negatives"]:
            p_j = math.exp(min(mean(item["logp"][j]), -1e-6))
            terms.append(-log_sigmoid(math.log(p_w / (1 - p_w)) - math.log(p_j / (1 - p_j))))
        losses.append(-mean(item["logp"][item["star"]]) + lam * (mean(terms) if terms else 0.0))
    return mean(losses)
