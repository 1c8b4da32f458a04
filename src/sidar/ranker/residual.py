"""What a learner adds to the smoothed answer, and how much of it is taken [ours].

    s(i) = log P(i | q, u) + λ g(i)

P is the smoothed answer (sidar.answer.smoothed) and g a learner that was boosted, or trained, from
log P: it has learnt what P leaves, and says nothing where it has learnt nothing.  λ is chosen on
the validation window among :data:`SHRINKAGES`, for queries that somebody asked before and for new
ones apart: the one whose lead over λ = 0 has the highest lower bound, in the worst of the groups of
requests that speak for its queries; 0, which is the smoothed answer itself, has the bound 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidar.types import Json

#: What λ may be.
SHRINKAGES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Shrinkage:
    """λ for queries that somebody asked before and for new ones; ``why``: what they reached."""

    seen: float
    unseen: float
    why: Json

    def of(self, seen: np.ndarray) -> np.ndarray:
        """Return (R,) λ of requests by whether their query was ``seen`` (R,)."""
        return np.where(seen, self.seen, self.unseen)

    def to_json(self) -> Json:
        return {"seen": self.seen, "unseen": self.unseen, "why": self.why}
