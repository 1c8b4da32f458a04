"""Profiles: one line of text per user, from the columns that the config allows into a prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from sidar.config import Config
from sidar.data.cleaning import clean
from sidar.data.cleaning.quarantine import Quarantine
from sidar.data.duck import Duck, text
from sidar.data.log import hashed_user
from sidar.data.readers.source import FILE, PLACE, Source
from sidar.data.readers.tabular import open_files

#: Share of the log's users with a profile below which another kind of id is likelier than few
#: members. [ours]
FEW_KNOWN = 0.1


@dataclass
class UserFacts:
    """Number of users in the file, what was left out of it, and what to tell."""

    users: int = 0
    quarantine: Quarantine | None = None
    warnings: list[str] = field(default_factory=list)


def write_users(duck: Duck, cfg: Config, out: Path) -> UserFacts:
    """Write ``users.parquet`` (``user_id`` as in the log, ``profile``) and leave it on ``duck`` as
    ``users``.

    A profile reads "age_group: 30-44; home: flat"; columns without a value are left out, and of a
    repeated user the profile that sorts first stays.  Without ``users.path`` the table is empty.
    Rows without a user id and users with two profiles are counted in the warnings.  Raises
    ``ValueError`` for a column that is missing and when more than ``users.bad_rows`` of the rows
    cannot be read.
    """
    if not cfg.users.path:
        duck.run(
            "CREATE OR REPLACE TABLE users AS SELECT ''::VARCHAR AS user_id, ''::VARCHAR AS "
            "profile WHERE false"
        )
        return UserFacts(duck.export("SELECT * FROM users", out))
    if unmeant := [column for column in cfg.users.columns if column != "user_id"]:
        raise ValueError(
            f"users.columns: {unmeant[0]!r} is not user_id; profile columns keep the source's names"
        )
    own = cfg.users.columns.get("user_id", "user_id")
    source = Source("")
    keys = [own, *cfg.users.profile] if cfg.users.profile else None
    open_files(duck, cfg.users.path, keys, "users", "raw_users", source)
    have = [c for c in duck.columns("raw_users") if c not in (FILE, PLACE)]
    columns = cfg.users.profile or [c for c in have if c != own and c not in source.nameless]
    missing = [c for c in (own, *columns) if c not in have]
    if missing:
        option = "users.columns.user_id" if missing[0] == own else "users.profile"
        raise ValueError(
            f"{option}: {cfg.users.path} has no column {missing[0]!r}; it has "
            f"{', '.join(source.columns)}"
        )
    said = ", ".join(f"{text(f'{c}: ')} || {clean.prose(c)}" for c in columns)
    profile = f"concat_ws('; ', {said})" if columns else "''"
    user = clean.present(own)
    raw = (
        f"(SELECT {user} AS user_id, {profile} AS profile, {FILE} AS file, {PLACE} AS place "
        "FROM raw_users)"
    )
    duck.run(
        f"""CREATE OR REPLACE TABLE users AS SELECT {hashed_user("user_id", cfg)} AS user_id,
            min(profile) AS profile
            FROM {raw} WHERE user_id IS NOT NULL GROUP BY 1"""
    )
    facts = UserFacts(
        duck.export("SELECT * FROM users ORDER BY user_id", out),
        Quarantine(f"users {cfg.users.path}"),
    )
    assert facts.quarantine is not None
    facts.quarantine.total = int(duck.row(f"SELECT count(*) FROM {raw}")[0])
    facts.quarantine.refuse(source)
    facts.quarantine.check(cfg.users.bad_rows, "users.bad_rows")
    facts.warnings = _lost(duck, cfg, source, raw, facts)
    return facts


def _lost(duck: Duck, cfg: Config, source: Source, raw: str, facts: UserFacts) -> list[str]:
    """Say which rows and profiles of the file did not arrive."""
    said = []
    quarantine = facts.quarantine
    if quarantine is not None and quarantine.bad:
        said.append(
            f"{quarantine.bad:,} rows of {cfg.users.path} cannot be read, e.g. "
            f"{quarantine.example()}"
        )
    nameless, first = duck.row(
        f"""SELECT count(*), arg_min({{file: file, place: place}}, (file, place))
            FROM {raw} WHERE user_id IS NULL"""
    )
    if nameless:
        said.append(
            f"{nameless:,} rows of {cfg.users.path} have no user id and are not used, e.g. "
            f"{Path(first['file']).name}, record {source.record(first['file'], first['place']):,}"
        )
    twice = duck.row(
        f"""SELECT count(*) FROM (SELECT user_id FROM {raw} WHERE user_id IS NOT NULL
            GROUP BY 1 HAVING min(profile) <> max(profile))"""
    )[0]
    if twice:
        said.append(
            f"{twice:,} users of {cfg.users.path} have several profiles; of each the one that "
            "sorts first stays"
        )
    if not facts.users:
        said.append(f"{cfg.users.path} names no user, so no prompt gets a profile")
    elif not duck.row("SELECT count(*) FROM users WHERE profile <> ''")[0]:
        said.append(
            f"all {facts.users:,} profiles of {cfg.users.path} are empty; name the columns that "
            "describe users in users.profile"
        )
    return said


def unmatched(duck: Duck, cfg: Config, log: Path) -> list[str]:
    """Say that hardly any user of the log is in the users file, with an id of either side.

    Hashed ids are not shown: only their shape is, letters as "a" and digits as "9".
    """
    if not cfg.users.path:
        return []
    known, total = duck.row(
        f"""SELECT count(*) FILTER (users.user_id IS NOT NULL), count(*)
            FROM (SELECT DISTINCT user_id FROM read_parquet({text(log)}) WHERE user_id <> '')
                LEFT JOIN users USING (user_id)"""
    )
    if not total:
        return [
            (
                f"the log has no user ids, so no profile of {cfg.users.path} is used; map "
                "events.columns.user_id"
            )
        ]
    if known > FEW_KNOWN * total:
        return []
    own = cfg.users.columns.get("user_id", "user_id")
    theirs = duck.rows(
        f"SELECT {clean.present(own)} AS id FROM raw_users WHERE id IS NOT NULL LIMIT 1"
    )
    ours = duck.rows(
        f"SELECT {clean.present('user_id')} AS id FROM raw_events WHERE id IS NOT NULL LIMIT 1"
    )
    examples = ""
    if theirs and ours:
        log_id, file_id = _shown(cfg, ours[0][0]), _shown(cfg, theirs[0][0])
        verb = "looks like" if cfg.privacy.hash_users else "is"
        examples = f" (an id of the log {verb} {log_id}, of the file {file_id})"
    return [
        f"{known:,} of the log's {total:,} users are in {cfg.users.path}{examples}, so hardly any "
        "prompt gets a profile; check users.columns.user_id and events.columns.user_id"
    ]


def _shown(cfg: Config, user_id: str) -> str:
    """An id for a message; where ids are hashed, only its shape."""
    if not cfg.privacy.hash_users:
        return repr(user_id)
    return repr(re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", user_id)))
