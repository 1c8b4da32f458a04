"""What is known of a group of rollouts beside its SIDs, and how it gets into a packed batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sidar.types import Json


@dataclass(frozen=True)
class Group:
    """What reinforcement knows of an example's C candidates; arrays (C,) unless said otherwise.

    The fields are those of :class:`~sidar.types.CandidateScores`. ``old_logp`` (C, S) holds the
    log-probs of the policy that wrote a member, NaN where it wrote none (positives, experts).
    ``perturbation_reward`` (m,) are rewards of other requests' SIDs, NaN = none.
    """

    rollout: np.ndarray  # bool
    expert: np.ndarray  # bool
    valid: np.ndarray  # bool
    reward: np.ndarray  # float
    old_logp: np.ndarray  # float32
    perturbation_reward: np.ndarray  # float
    inclusion: np.ndarray | None = None  # float; None = all 1

    def to_json(self) -> Json:
        """Return the group as lists, for a checkpoint; numbers come back as they were."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if one is None else one.tolist() for name, one in values.items()}

    @classmethod
    def from_json(cls, values: Json) -> Group:
        """Take back what :meth:`to_json` returned."""
        inclusion = values["inclusion"]
        return cls(
            rollout=np.array(values["rollout"], bool),
            expert=np.array(values["expert"], bool),
            valid=np.array(values["valid"], bool),
            reward=np.array(values["reward"], np.float64),
            old_logp=np.array(values["old_logp"], np.float32),
            perturbation_reward=np.array(values["perturbation_reward"], np.float64),
            inclusion=None if inclusion is None else np.array(inclusion, np.float64),
        )


def tabulate(groups: Sequence[Group | None], width: int) -> dict[str, Tensor]:
    """Return the fields of B groups as tensors (B, ``width``, …), by the names that they have in
    CandidateScores.

    Rows without a group (item text) and padding have no members; a field that a group lacks is left
    out, and so is everything where no row has a group.
    """
    some = [group for group in groups if group is not None]
    if not some:
        return {}
    fill = {"valid": True, "old_logp": np.nan, "perturbation_reward": np.nan}
    given = {}
    for field in fields(Group):
        if any(getattr(group, field.name) is None for group in some):
            continue
        first = getattr(some[0], field.name)
        is_per_list = field.name == "perturbation_reward"
        if is_per_list and not len(first):
            continue
        shape = (len(groups), len(first) if is_per_list else width, *first.shape[1:])
        kind = np.bool_ if first.dtype == np.bool_ else np.float32
        table = np.full(shape, fill.get(field.name, 0), kind)
        for row, group in zip(table, groups, strict=True):
            if group is not None:
                values = getattr(group, field.name)
                row[: len(values)] = values
        given[field.name] = torch.from_numpy(table)
    return given
