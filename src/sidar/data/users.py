"""Profiles: one line of text per user, from the columns that the config allows into a prompt."""

from __future__ import annotations

from pathlib import Path

from sidar.config import Config
from sidar.data import clean
from sidar.data.duck import Duck, name
from sidar.data.log import hashed_user
from sidar.data.readers.source import FILE, PLACE, Source
from sidar.data.readers.tabular import open_files


def write_users(duck: Duck, cfg: Config, out: Path) -> int:
    """Write ``users.parquet`` (``user_id`` as in the log, ``profile``) and leave it on ``duck`` as ``users``.

    A profile reads "age_group: 30-44; home: flat"; columns without a value are left out, and of a repeated user the
    profile that sorts first stays.  Without ``users.path`` the table is empty.
    """
    if not cfg.users.path:
        duck.run("CREATE OR REPLACE TABLE users AS SELECT ''::VARCHAR AS user_id, ''::VARCHAR AS profile WHERE false")
        return duck.export("SELECT * FROM users", out)
    keys = ["user_id", *cfg.users.profile] if cfg.users.profile else None
    open_files(duck, cfg.users.path, keys, "users", "raw_users", source := Source(""))
    have = [c for c in duck.columns("raw_users") if c not in (FILE, PLACE)]
    columns = cfg.users.profile or [c for c in have if c != "user_id"]
    missing = [c for c in ("user_id", *columns) if c not in have]
    if missing:
        raise ValueError(
            f"users.profile: {cfg.users.path} has no column {missing[0]!r}; it has {', '.join(source.columns)}"
        )
    said = ", ".join(
        f"'{c}: ' || {clean.prose(c)}".replace(f"'{c}: '", f"'{c.replace(chr(39), '')}: '") for c in columns
    )
    profile = f"concat_ws('; ', {said})" if columns else "''"
    user = hashed_user(clean.present("user_id"), cfg)
    duck.run(
        f"""CREATE OR REPLACE TABLE users AS SELECT {user} AS user_id, min({profile}) AS profile
            FROM raw_users WHERE {name("user_id")} IS NOT NULL GROUP BY 1"""
    )
    return duck.export("SELECT * FROM users WHERE user_id IS NOT NULL ORDER BY user_id", out)
