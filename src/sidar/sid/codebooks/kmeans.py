"""k-means for codebooks: seeded by k-means++ in rounds, over-relaxed passes, distances in bf16
where it pays.

A pass costs one (n, D) × (D, K) product.  What makes the whole cheap without making it worse:

* **Fewer passes.** After seeding by D² sampling, each mean is overshot by half its step
  (over-relaxation of a fixed point, as in over-relaxed EM [known]); two plain passes end it. Some
  ten passes reach a lower error than 25 plain ones from random points
  (``benchmarks/results/sid.json``).
* **bf16 products, fp32 sums.** A wrong nearest centroid is possible only among near ties, where it
  costs next to nothing; means and errors are fp32. :func:`nearest` settles the ties in fp32, so
  encoding does not depend on it.
* **k-means++ in rounds.** A round draws a batch of seeds, so seeding is matrix products over a
  small sample (k-means||, Bahmani et al. 2012 [known]).

What makes it better on residuals: **seeds are shortened.** A residual in hundreds of dimensions is
nearly orthogonal to every other, so a single point is far too long to be a mean: it attracts
nobody, stays alone for ever, and the centroid next to the origin takes the rest. All seeds are
therefore scaled towards the mean by the one factor that leaves the sample the least error (1 where
clusters are tight): level by level, codes are used evenly instead of hardly at all
(``docs/findings.md``). [ours]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sidar.precision import Precision, use_bf16

CHUNK = 4096  # rows per matrix product: more of them leave the cache, fewer pay more for each call
_PAIRS = 1 << 16  # near ties that are decided together
# scores of one product while encoding: more leave the cache before they are looked at
_SCORES = 1 << 22
RELAXATION = 1.5
_SEED_ROUNDS = 32
_SEED_SAMPLE = 16  # points per seed
_LENGTHS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)


def kmeans(
    points: Tensor,
    k: int,
    *,
    generator: torch.Generator,
    iterations: int = 20,
    init: str = "kmeans++",
    restarts: int = 1,
    sample: int = 256,
    precision: Precision = "auto",
    tolerance: float = 1e-3,
) -> Tensor:
    """(k, D) fp32 centroids of ``points`` (n, D) fp32.

    At most ``iterations`` passes over at most ``sample``·k points; the over-relaxed ones end when a
    pass lowers the error by less than ``tolerance`` of it, and two plain passes follow. Of
    ``restarts`` runs the one with the least error on the sample wins. With k or fewer distinct
    points the centroids are these points and then the last one again: the spare codes stay unused.
    Deterministic given the generator's state, the device and the thread count.
    """
    if not len(points):
        raise ValueError("k-means needs at least one point")
    order = torch.randperm(len(points), generator=generator)[: max(sample, 1) * k]
    points = points[order.to(points.device)]
    # k or fewer among these, and it is worth looking at all
    distinct = torch.unique(points[: 4 * k], dim=0)
    if len(distinct) <= k and len(distinct := torch.unique(points, dim=0)) <= k:
        return torch.cat([distinct, distinct[-1:].expand(k - len(distinct), -1)])
    shift = points.mean(0)  # distances stay, scores and their rounding become small
    work = (points - shift).to(
        torch.bfloat16 if use_bf16(points.device, precision) else torch.float32
    )
    best, least = points[:k], math.inf
    for _ in range(max(1, restarts)):
        centroids = _seed(points, work, shift, k, init, generator)
        centroids, error = _lloyd(points, work, shift, centroids, generator, iterations, tolerance)
        if error < least:
            best, least = centroids, error
    return best


def nearest(
    points: Tensor, centroids: Tensor, precision: Precision = "auto", *, measure: bool = True
) -> tuple[Tensor, Tensor]:
    """(n,) int64 nearest centroid of each point (n, D), and (n,) fp32 squared distance to it if
    ``measure``, else (0,).

    As :class:`Nearest`, for once.
    """
    return Nearest(centroids, precision)(points, measure=measure)


class Nearest:
    """The nearest of ``centroids`` (K, D) for any number of points; what depends on the centroids
    alone is done once.

    Rows whose best centroid leads by less than bf16 can tell are decided in fp32: the answer is
    fp32's whatever the precision. Equal distances go to the lower code.
    """

    def __init__(self, centroids: Tensor, precision: Precision = "auto") -> None:
        # of the last, at the end
        copies = (centroids[1:] == centroids[:-1]).all(1).flip(0).long().cumprod(0).sum()
        # ties with them went to the lower code in any case
        centroids = centroids[: len(centroids) - int(copies)]
        self._shift = centroids.mean(0)
        self._moved = centroids - self._shift
        self._low = use_bf16(centroids.device, precision)
        self._weight, self._bias = _scorer(self._moved, torch.float32)
        if self._low:  # the bias as two more columns that add up to it: exact but for 2⁻¹⁷ of it
            high = self._bias.bfloat16()
            self._weight = torch.cat(
                [self._weight.bfloat16(), torch.stack([high, self._bias - high], 1).bfloat16()], 1
            )
        # Rounding to bf16 errs by at most 2⁻⁹ of a number. In a product of D terms the errors of
        # the inputs are independent: twelve standard deviations of them, and the worst case of
        # rounding scores and this threshold.
        self._spread = min(4.0, 12 / math.sqrt(centroids.shape[1])) * float(
            self._moved.norm(dim=1).max()
        )
        self._chunk = max(256, min(CHUNK, _SCORES // len(centroids)))

    def __call__(self, points: Tensor, *, measure: bool = True) -> tuple[Tensor, Tensor]:
        """As :func:`nearest`."""
        labels = torch.empty(len(points), dtype=torch.int64, device=points.device)
        distances = torch.empty(len(points) if measure else 0, device=points.device)
        columns, width = points.shape[1], self._weight.shape[1]
        rounded = (
            self._weight.new_ones((min(self._chunk, len(points)), width)) if self._low else None
        )
        for start in range(0, len(points), self._chunk):
            rows = slice(start, start + self._chunk)
            x = points[rows] - self._shift
            if rounded is None:
                found = _argmax(torch.nn.functional.linear(x, self._weight, self._bias))
            else:
                rounded[: len(x), :columns] = x
                found = self._rounded(
                    x, torch.nn.functional.linear(rounded[: len(x)], self._weight)
                )
            labels[rows] = found
            if measure:
                distances[rows] = (x - self._moved.index_select(0, found)).square().sum(1)
        return labels, distances

    def _rounded(self, x: Tensor, scores: Tensor) -> Tensor:
        """(n,) codes of centred points (n, D) by bf16 ``scores`` (n, K), near ties by their fp32
        scores.
        """
        found = _argmax(scores)
        best = scores.gather(1, found[:, None]).float()
        margin = 2**-9 * (self._spread * x.norm(dim=1, keepdim=True) + 3 * best.abs())
        close, near = _close(scores, found, (best - margin).bfloat16())
        if len(close):
            found[torch.from_numpy(close).to(found.device)] = _decide(x, self._moved, near, close)
        return found


def _scorer(centred: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias whose linear map gives x·c − |c|²/2, largest for the nearest c."""
    return centred.to(dtype), (-centred.square().sum(1) / 2).to(dtype)


def _argmax(scores: Tensor) -> Tensor:
    """(n,) argmax of rows, the first of equals; on a CPU numpy's, which is some ten times as fast
    as torch's.

    numpy has no bf16, but bf16 numbers that are not negative sort as the int16 of the same bits,
    and negative ones are negative int16: right for every row whose best score is not negative, and
    the others are asked again.
    """
    if scores.device.type != "cpu":
        return scores.argmax(1)
    if scores.dtype != torch.bfloat16:
        return torch.from_numpy(scores.numpy().argmax(1))
    found = torch.from_numpy(scores.view(torch.int16).numpy().argmax(1))
    below = torch.nonzero(scores.gather(1, found[:, None])[:, 0] < 0)[:, 0]
    if len(below):
        found[below] = _argmax(scores[below].float())
    return found


def _close(scores: Tensor, found: Tensor, threshold: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) where more than the best, ``found`` (n,), is ≥ ``threshold`` (n, 1), and which is:
    (m, K) bool.

    ``scores`` (n, K) and ``threshold`` are bf16. On a CPU they are compared as int16, which takes a
    tenth of torch's time: the bits of numbers > 0 sort as int16 and above those of all others. Most
    rows are done with once the second best is known.
    """
    if scores.device.type != "cpu":
        near = (scores >= threshold).cpu().numpy()
        rows = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
        return rows, near[rows]
    bits, least = scores.view(torch.int16).numpy(), threshold.view(torch.int16).numpy()[:, 0]
    every, top = np.arange(len(bits)), found.numpy()
    best = bits[every, top]
    bits[every, top] = np.iinfo(np.int16).min
    second = bits[every, bits.argmax(1)]
    bits[every, top] = best
    rows = np.flatnonzero((second >= least) | (least <= 0))
    near = bits[rows] >= least[rows, None]
    low = np.flatnonzero(least[rows] <= 0)  # thresholds that negative numbers may reach
    if len(low):
        limit = np.where(least[rows[low]] == 0, np.int16(-1), _ordered(least[rows[low]]))
        near[low] = _ordered(bits[rows[low]]) >= limit[:, None]
    several = np.count_nonzero(near, axis=1) > 1
    return rows[several], near[several]


def _ordered(bits: np.ndarray) -> np.ndarray:
    """int16 that sort as the bf16 numbers of these bits do; −0 comes just below 0."""
    return bits ^ ((bits >> 15) & np.int16(0x7FFF))


def _decide(x: Tensor, moved: Tensor, near: np.ndarray, close: np.ndarray) -> Tensor:
    """(m,) int64: the best in fp32 among the codes that ``near`` (m, K) marks, for rows ``close``
    (m,) of x (n, D).
    """
    row, code = np.nonzero(near)
    at, of = (torch.from_numpy(a).to(x.device) for a in (close[row], code))
    exact = np.empty(len(row), np.float32)
    # where most codes tie, all pairs at once would be n × K × D numbers
    for begin in range(0, len(row), _PAIRS):
        some = slice(begin, begin + _PAIRS)
        # a fifth of the time of moved[of], as everywhere here
        centre = moved.index_select(0, of[some])
        exact[some] = (
            (x.index_select(0, at[some]).sub_(centre / 2).mul_(centre)).sum(1).cpu().numpy()
        )
    start = np.flatnonzero(np.diff(row, prepend=-1))
    best = np.repeat(np.maximum.reduceat(exact, start), np.diff(np.append(start, len(row))))
    first = np.flatnonzero(exact == best)
    return torch.from_numpy(code[first[np.unique(row[first], return_index=True)[1]]]).to(x.device)


def _seed(
    points: Tensor, work: Tensor, shift: Tensor, k: int, init: str, generator: torch.Generator
) -> Tensor:
    """(k, D) starting centroids from ``points``, which are in random order."""
    if init not in ("kmeans++", "random"):
        raise ValueError(f"sid.init must be kmeans++ or random, not {init!r}")
    work = work[: _SEED_SAMPLE * k]
    chosen = torch.arange(k) if init == "random" else _spread(points, work, shift, k, generator)
    return _shorten(points[chosen] - shift, work[: 4 * k]) + shift


def _spread(
    points: Tensor, work: Tensor, shift: Tensor, k: int, generator: torch.Generator
) -> Tensor:
    """(k,) indices drawn by squared distance to those drawn before (k-means++), a
    batch per round.
    """
    norms = work.float().square().sum(1)
    new = chosen = torch.zeros(1, dtype=torch.int64, device=points.device)
    distance = torch.full_like(norms, math.inf)
    while len(chosen) < k:
        weight, bias = _scorer(points[new] - shift, work.dtype)
        score = torch.cat(
            [torch.nn.functional.linear(x, weight, bias).amax(1) for x in work.split(CHUNK)]
        )
        distance = torch.minimum(distance, (norms - 2 * score.float()).clamp_min(0))
        distance[chosen] = 0
        # the first rounds draw few: D² means little before the seeds are spread
        new = _draw(
            distance, min(max(1, k // _SEED_ROUNDS), len(chosen), k - len(chosen)), generator
        )
        chosen = torch.cat([chosen, new])
    return chosen


def _shorten(seeds: Tensor, work: Tensor) -> Tensor:
    """``seeds`` (k, D) times the factor of :data:`_LENGTHS` that leaves ``work``
    the least error.
    """
    half = seeds.square().sum(1) / 2
    gain = torch.zeros(len(_LENGTHS), dtype=torch.float64)
    for x in work.split(CHUNK):
        product = torch.nn.functional.linear(x, seeds.to(x.dtype)).float()
        for i, length in enumerate(_LENGTHS):
            gain[i] += (length * product - length**2 * half).amax(1).sum(dtype=torch.float64).cpu()
    return seeds * _LENGTHS[int(gain.argmax())]


def group_sums(points: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """(k, D) sums of the points (n, D) of each label; ``count`` (k,) = how many.

    Deterministic on every device.
    """
    if points.device.type == "cpu":
        return points.new_zeros(len(count), points.shape[1]).index_add_(0, labels, points)
    order = labels.argsort(stable=True)  # CUDA's index_add_ adds in any order
    return torch.segment_reduce(points[order], "sum", lengths=count, axis=0, unsafe=True)


def _draw(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) distinct indices, drawn in proportion to ``weight``; those of weight 0 come last."""
    flat = weight.double().cpu() + 1e-300
    race = torch.empty(len(flat), dtype=torch.float64).exponential_(generator=generator)
    return (flat.log() - race.log()).topk(count).indices.to(weight.device)


def _lloyd(
    points: Tensor,
    work: Tensor,
    shift: Tensor,
    centroids: Tensor,
    generator: torch.Generator,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, float]:
    """Passes over all ``points``; returns centroids and the error of the last assignment."""
    n, k = len(points), len(centroids)
    squares = sum(float(torch.dot(x, x)) for x in points.reshape(-1).split(CHUNK * points.shape[1]))
    energy = squares - n * float(shift.double().square().sum())  # Σ|x − μ|²
    error, relaxation = math.inf, RELAXATION
    plain = 0
    for turn in range(iterations):
        if turn >= iterations - 2:
            relaxation = 1.0
        weight, bias = _scorer(centroids - shift, work.dtype)
        labels = torch.cat(
            [_argmax(torch.nn.functional.linear(x, weight, bias)) for x in work.split(CHUNK)]
        )
        count = torch.bincount(labels, minlength=k)
        mean = torch.where(
            count[:, None] > 0,
            group_sums(points, labels, count) / count.clamp_min(1)[:, None],
            centroids,
        )
        # Σ|x − μ|² − Σ n_k |mean_k − μ|² is the error of this assignment to its means, for free
        last, error = (
            error,
            (energy - float((count * (mean - shift).double().square().sum(1)).sum())) / n,
        )
        centroids = centroids + relaxation * (mean - centroids)
        dead = torch.nonzero(count == 0)[:, 0]
        if len(dead):  # half-way to a far point, for the reason that seeds are shortened
            far = torch.cat(
                [
                    (x - mean[c]).square().sum(1)
                    for x, c in zip(points.split(CHUNK), labels.split(CHUNK), strict=True)
                ]
            )
            drawn = _draw(far, len(dead), generator)
            centroids[dead] = (points[drawn] + mean[labels[drawn]]) / 2
        if relaxation == 1.0:
            plain += 1
            if plain >= 2 and not len(dead):
                break
        elif last - error < tolerance * error:
            relaxation = 1.0
    return centroids, error
