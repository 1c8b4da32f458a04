"""LambdaMART by LightGBM (Burges 2010, "From RankNet to LambdaRank to LambdaMART").

Trees need no scaling of features and take NaN as a value of its own: an item that no beam reached
goes its own way at every split. One thread and a seed give the same trees every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidar.config import RankerConfig
from sidar.ranker.learner import CUT, GAIN, Table

#: Rounds without a better validation after which boosting stops.
PATIENCE = 50


class LambdaMart:
    """Boosted trees; make one with :meth:`fit` or :meth:`load`."""

    name = "lambdamart"

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    @classmethod
    def fit(
        cls,
        options: RankerConfig,
        names: Sequence[str],
        train: Table,
        valid: Table,
        *,
        seed: int,
        threads: int = 1,
    ) -> LambdaMart:
        """Boost on ``train`` and keep the rounds up to the best nDCG@10 of ``valid``.

        Without validation requests all ``ranker.rounds`` are kept.  Where the tables have a prior,
        the trees start from its log P and learn what it leaves; it is no part of the model, so
        that :meth:`scores` are of the trees alone.
        """
        import lightgbm

        def data(table: Table, reference: Any = None) -> Any:
            return lightgbm.Dataset(
                table.features,
                label=table.labels,
                group=table.sizes,
                weight=np.repeat(table.weight, table.sizes),
                init_score=None if table.prior is None else table.prior.logs,
                feature_name=list(names),
                reference=reference,
                params={"verbosity": -1, "max_bin": 255},
            )

        params = {
            "objective": "lambdarank",
            "metric": "ndcg",
            "ndcg_eval_at": [CUT],
            "label_gain": GAIN.tolist(),
            "lambdarank_truncation_level": 3 * CUT,
            "learning_rate": options.rate,
            "num_leaves": options.leaves,
            "min_data_in_leaf": options.min_leaf,
            "feature_fraction": 0.8,
            "lambda_l2": 1.0,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads,
            "verbosity": -1,
        }
        whole = data(train)
        checks = [data(valid, whole)] if len(valid) else []
        calls: list[Any] = [lightgbm.early_stopping(PATIENCE, verbose=False)] if checks else []
        booster = lightgbm.train(
            params, whole, options.rounds, valid_sets=checks or None, callbacks=calls
        )
        return cls(booster)

    @property
    def rounds(self) -> int:
        """Rounds that the model has."""
        return int(self._booster.best_iteration or self._booster.num_trees())

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return (P,) float64 scores of feature rows (P, F)."""
        if not len(features):
            return np.empty(0)
        # one thread: a request has a few hundred rows, and threads cost more than they bring
        found = self._booster.predict(features, num_threads=1)
        return np.asarray(found, np.float64)

    def gains(self) -> np.ndarray:
        """(F,) share of all split gains that each feature brought."""
        gain = np.asarray(self._booster.feature_importance("gain"), np.float64)
        return gain / max(float(gain.sum()), 1e-12)

    def save(self, path: Path) -> None:
        """Write the trees as LightGBM's text."""
        best = self._booster.best_iteration or None
        path.write_text(self._booster.model_to_string(num_iteration=best))

    @classmethod
    def load(cls, path: Path) -> LambdaMart:
        """Read what :meth:`save` wrote; ``ValueError`` where it is no model."""
        import lightgbm

        try:
            return cls(lightgbm.Booster(model_str=path.read_text()))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(
                f"{path} is damaged: LightGBM cannot read it ({error}); make it again with "
                "`sidar run`"
            ) from error
