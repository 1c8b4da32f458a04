"""Groups for reinforcement: what the model writes for a batch of requests, and what it is worth.

For each request the model as it is now draws a group of SIDs (:func:`sidar.decode.sample`), logged
SIDs join it where the objective wants experts (EG-GRPO), and the reward scores the group, the
request's positives, and SIDs of the other requests of the batch (AdaGRPO's perturbation items).
What comes out is packed behind the prompt like any list, so that the loss is one forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from sidar.config import AlignConfig
from sidar.decode.sample import sample
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex
from sidar.lm.candidates import Candidate
from sidar.lm.model import SidLM
from sidar.lm.scorer import LmScorer
from sidar.rewards import LoggedRequest, Reward
from sidar.train.examples import Example
from sidar.train.rl.groups import Group
from sidar.types import Rollouts, SemanticIds

#: Streams of random numbers of one step.
_EXPERTS, _FOREIGN = 5, 6


@dataclass(frozen=True)
class Asked:
    """A request that SIDs are written for: its prompt and positives, what the log says of it, and
    its number in the log, which its random draws depend on.
    """

    example: Example
    request: LoggedRequest
    number: int


class Explorer:
    """Draws and rewards the groups of a batch of requests with the weights that ``model`` has now.

    The same weights, requests and ``step`` give the same groups: nothing is kept between two calls
    but the engine, whose weights are read again.
    """

    def __init__(
        self,
        model: SidLM,
        index: PrefixIndex,
        sids: SemanticIds,
        reward: Reward,
        cfg: AlignConfig,
        seed: int,
    ) -> None:
        self._model, self._index, self._reward, self._seed = model, index, reward, seed
        self._options, self._precision = cfg.rollouts, cfg.precision
        name = cfg.objective.removesuffix("+sft")
        self._experts = cfg.eggrpo.experts if name == "eggrpo" else 0
        self._replaces = cfg.eggrpo.expert_mode == "replace"
        gated = cfg.adagrpo
        self._foreign = gated.perturbations if name == "adagrpo" else 0
        self._of_truth = gated.perturbation_source == "truth"
        self._sid_of = index.lookup(sids.codes)  # (N,) by catalogue row, −1 = none
        self._scorer: LmScorer | None = None  # made once the model is on its device
        self._trie: Trie | None = None

    def __call__(self, asked: Sequence[Asked], step: int) -> tuple[list[Example], dict[str, float]]:
        """Return the examples with their groups, and what to log of the batch."""
        requests = [one.request for one in asked]
        drawn = self._draw(asked, step)
        chosen = [self._sids(request.tiers) for request in requests]
        shown = [self._sids(request.exposed) for request in requests]
        members, expert = self._with_experts(drawn, chosen, shown, step)
        positives = self._rollouts([self._listed(one.example) for one in asked])
        foreign = self._rollouts(self._of_others(asked, drawn, chosen, step))
        rewards = self._score(requests, [members, positives, foreign])
        groups = [
            self._group(one.example, b, members, expert, foreign, rewards)
            for b, one in enumerate(asked)
        ]
        return groups, self._statistics(drawn, chosen, shown)

    # ------------------------------------------------------------------ what is in a group

    def _draw(self, asked: Sequence[Asked], step: int) -> Rollouts:
        if self._scorer is None:
            self._scorer = LmScorer(self._model, precision=self._precision)
            self._trie = Trie(self._index, self._model.device)
        else:
            self._scorer.refresh()  # its engine holds copies of the weights
        assert self._trie is not None
        options = self._options
        return sample(
            self._scorer,
            [one.example.tokens for one in asked],
            self._trie,
            options.group,
            method=options.method,
            temperature=options.temperature,
            seed=self._seed,
            step=step,
            requests=[one.number for one in asked],
        )

    def _with_experts(
        self,
        drawn: Rollouts,
        chosen: Sequence[np.ndarray],
        shown: Sequence[np.ndarray],
        step: int,
    ) -> tuple[Rollouts, np.ndarray]:
        """Return the groups with their experts, and (B, M) bool which members those are.

        An expert is an SID of the log that was not drawn; chosen ones come first, then shown ones,
        each in random order. ``replace`` puts them in the place of the last members.
        """
        if not self._experts:
            return drawn, np.zeros(drawn.sids.shape, bool)
        rng = np.random.default_rng([self._seed, _EXPERTS, step])
        listed = []
        for sids, right, seen in zip(drawn.sids, chosen, shown, strict=True):
            first = rng.permutation(np.setdiff1d(right, sids))
            then = rng.permutation(np.setdiff1d(np.setdiff1d(seen, right), sids))
            listed.append(np.concatenate([first, then])[: self._experts])
        experts = self._rollouts(listed)
        size = drawn.sids.shape[1]
        if self._replaces:
            count = np.array([len(one) for one in listed])
            drawn = _without(drawn, np.arange(size) >= size - count[:, None])
        members = _beside([drawn, experts])
        expert = np.zeros(members.sids.shape, bool)
        expert[:, size:] = experts.sids >= 0
        return members, expert

    def _of_others(
        self,
        asked: Sequence[Asked],
        drawn: Rollouts,
        chosen: Sequence[np.ndarray],
        step: int,
    ) -> list[np.ndarray]:
        """Return per request at most m different SIDs of other requests, none of them chosen here.

        They are drawn from the others' rollouts, or are the others' best positives.
        """
        if not self._foreign:
            return [np.zeros(0, np.int64) for _ in asked]
        rng = np.random.default_rng([self._seed, _FOREIGN, step])
        if self._of_truth:
            pools = [self._listed(one.example)[:1] for one in asked]
        else:
            pools = [sids[sids >= 0] for sids in drawn.sids]
        found = []
        for b, right in enumerate(chosen):
            others = np.unique(np.concatenate([*pools[:b], *pools[b + 1 :], np.zeros(0, np.int64)]))
            foreign = np.setdiff1d(others, right, assume_unique=True)
            found.append(rng.permutation(foreign)[: self._foreign])
        return found

    def _sids(self, rows: Iterable[int]) -> np.ndarray:
        """Return the different SIDs of catalogue rows, those without one left out."""
        sids = self._sid_of[np.fromiter(rows, np.int64)]
        return np.unique(sids[sids >= 0])

    def _listed(self, example: Example) -> np.ndarray:
        """Return the SIDs of an example's positives, in their order."""
        levels = self._index.n_levels
        codes = [[*c.codes, *(-1,) * (levels - len(c.codes))] for c in example.candidates]
        return self._index.lookup(np.array(codes, np.int64))

    def _rollouts(self, listed: Sequence[np.ndarray]) -> Rollouts:
        """Return lists of SIDs as a value that a reward reads; log-probs of those are not known."""
        width, levels = max(map(len, listed), default=0), self._index.n_levels
        sids = np.full((len(listed), width), -1, np.int64)
        for row, some in zip(sids, listed, strict=True):
            row[: len(some)] = some
        codes = np.where((sids >= 0)[..., None], self._index.table[sids], -1).astype(np.int32)
        known = np.where(sids >= 0, np.nan, -np.inf)
        steps = np.full((*sids.shape, levels + 1), np.nan, np.float32)
        lengths = (codes >= 0).sum(-1).astype(np.int32)
        return Rollouts(sids, codes, lengths, known, steps)

    # ------------------------------------------------------------------ what it is worth

    def _score(
        self, requests: Sequence[LoggedRequest], blocks: Sequence[Rollouts]
    ) -> list[np.ndarray]:
        """Return the rewards of each block of SIDs; in one call, where they do not depend on each
        other.
        """
        if self._reward.relative:
            return [self._reward.score(requests, block) for block in blocks]
        ends = np.cumsum([block.sids.shape[1] for block in blocks])
        rewards = self._reward.score(requests, _beside(blocks))
        return np.split(rewards, ends[:-1], axis=1)

    def _group(
        self,
        example: Example,
        b: int,
        members: Rollouts,
        expert: np.ndarray,
        foreign: Rollouts,
        rewards: Sequence[np.ndarray],
    ) -> Example:
        """Return the example of request ``b`` with the members of its group behind its positives.

        ``rewards`` are those of members, positives and others' SIDs, (B, …) each.
        """
        of_members, of_positives, of_foreign = rewards
        n_positive, levels = len(example.candidates), self._index.n_levels
        inside = self._spelled(members, b)
        codes = [members.codes[b, g, : members.lengths[b, g]] for g in inside]
        candidates = [Candidate(tuple(int(c) for c in one)) for one in codes]

        def column(values: np.ndarray, before: float | np.ndarray) -> np.ndarray:
            """(C, …) values of the positives, then of the members."""
            shape = (n_positive, *values.shape[2:])
            return np.concatenate([np.broadcast_to(before, shape), values[b, inside]])

        # experts are no draws: with them every member counts alike, as eq. 10 has it
        weight = None if self._experts else members.weight
        present = members.logp[b] != -np.inf
        # as many columns for every request; NaN where there are fewer SIDs of others
        perturbation = np.full(self._foreign, np.nan)
        perturbation[: foreign.sids.shape[1]] = np.where(
            foreign.sids[b] >= 0, of_foreign[b], np.nan
        )
        return replace(
            example,
            candidates=[*example.candidates, *candidates],
            counts={
                **{name: example.counts[name] for name in ("repeated_sids", "rows_without_sid")},
                "requests": 1,
                "rollouts": int((present & ~expert[b]).sum()),
                "experts": int(expert[b].sum()),
                "rollouts_that_cannot_be_spelled": int(present.sum()) - len(inside),
            },
            group=Group(
                rollout=column(np.ones(members.sids.shape, bool), False),
                expert=column(expert, False),
                valid=column(members.sids >= 0, True),
                reward=column(of_members, of_positives[b, :n_positive]),
                old_logp=column(members.level_logp, np.full(levels + 1, np.nan)),
                perturbation_reward=perturbation,
                inclusion=None if weight is None else column(weight, 1.0),
            ),
        )

    def _spelled(self, members: Rollouts, b: int) -> np.ndarray:
        """Return the members of request ``b`` that a forward can score.

        Left out are padding, and what free sampling wrote that is no sequence of codes.
        """
        vocab, length = self._model.vocab, members.lengths[b]
        shortest = 1 if vocab.variable_length else vocab.n_levels
        filled = (members.codes[b] >= 0).sum(-1) == length
        return np.flatnonzero(filled & (length >= shortest) & (members.logp[b] != -np.inf))

    def _statistics(
        self, drawn: Rollouts, chosen: Sequence[np.ndarray], shown: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """Return what to watch of the SIDs that the model drew, experts not counted.

        ``click_hit`` and ``exposure_hit``: share of the requests with a chosen (a shown) item among
        whose SIDs one is. ``distinct``: different SIDs over all drawn in the batch. ``entropy``:
        mean −log π in nats, by the inclusion weights where there are some. A quantity that the
        batch does not define is left out.
        """
        there = drawn.logp != -np.inf
        weight = there if drawn.weight is None else np.where(there, drawn.weight, 0.0)
        surprise = np.where(there, -drawn.logp, 0.0)
        values = {
            "rollout/valid": (drawn.sids >= 0)[there].mean(),
            "rollout/distinct": len(np.unique(drawn.sids[drawn.sids >= 0])) / max(there.sum(), 1),
            "rollout/entropy": (weight * surprise).sum() / max(weight.sum(), 1e-30),
        }
        for name, logged in (("click_hit", chosen), ("exposure_hit", shown)):
            hits = [
                bool(np.isin(sids, some).any())
                for sids, some in zip(drawn.sids, logged, strict=True)
                if len(some)
            ]
            if hits:
                values[f"rollout/{name}"] = float(np.mean(hits))
        return {name: float(value) for name, value in values.items()}


def _beside(blocks: Sequence[Rollouts]) -> Rollouts:
    """Return the SIDs of several blocks side by side, without weights unless there is one block."""
    if len(blocks) == 1:
        return blocks[0]
    names = [field.name for field in fields(Rollouts) if field.name != "weight"]
    return Rollouts(
        **{name: np.concatenate([getattr(one, name) for one in blocks], axis=1) for name in names}
    )


def _without(drawn: Rollouts, gone: np.ndarray) -> Rollouts:
    """Return the rollouts with padding where ``gone`` (B, G) is True."""
    return replace(
        drawn,
        sids=np.where(gone, -1, drawn.sids),
        codes=np.where(gone[..., None], -1, drawn.codes),
        lengths=np.where(gone, 0, drawn.lengths),
        logp=np.where(gone, -np.inf, drawn.logp),
    )
