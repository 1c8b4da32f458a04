"""``sidar bundle --to``: the copy of a run's bundle that may leave the machine."""

from __future__ import annotations

from sidar.config import Config
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.examples import EXAMPLE_USERS, example_queries
from sidar.serve.bundle.export import Export, export_bundle
from sidar.types import PathLike


def leave(cfg: Config, out: PathLike, min_users: int | None = None) -> Export:
    """Copy the run's bundle to ``out``; ``min_users`` None = ``privacy.min_users``.

    The example queries are chosen again where they must have more users than those of the run's own
    bundle.
    """
    least = cfg.privacy.min_users if min_users is None else min_users
    bundle = cfg.run_dir / "bundle"
    examples = None
    if least > EXAMPLE_USERS:
        examples = example_queries(
            cfg.run_dir / "data", open_bundle(bundle).catalogue, min_users=least
        )
    return export_bundle(bundle, out, least, examples)
