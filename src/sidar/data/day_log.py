"""Grouping a log into requests against a catalogue that is there already: what counting a day for a
bundle reads.
"""

from __future__ import annotations

from pathlib import Path

from sidar.config import Config
from sidar.data.cleaning.quarantine import Quarantine
from sidar.data.duck import Duck
from sidar.data.log import LogFacts, validate_log
from sidar.data.requests import RequestFacts, write_requests
from sidar.data.training.splits import Split
from sidar.types import Catalogue

#: The split of every request: a log that is only counted has no validation and no test.
SPLIT = "train"


def write_day_requests(
    duck: Duck, cfg: Config, catalogue: Catalogue, out: Path
) -> tuple[LogFacts, RequestFacts, Quarantine]:
    """Write ``requests.parquet`` of the log ``cfg.events`` to ``out``, rows of ``catalogue``;
    nothing is held out.

    Columns, actions and user hashes are read as the data stage reads them.  Requests have no
    history and no profile. Raises ``ValueError`` where the log cannot be used (see
    :func:`~sidar.data.log.validate_log`).
    """
    log = duck.work / "interactions.parquet"
    facts, bad = validate_log(duck, cfg, catalogue, log)
    duck.run(
        "CREATE OR REPLACE TABLE users AS SELECT ''::VARCHAR AS user_id, ''::VARCHAR AS profile "
        "WHERE false"
    )
    duck.run("CREATE OR REPLACE TABLE dead_rows AS SELECT 0 AS row WHERE false")
    duck.run("CREATE OR REPLACE TABLE held_out AS SELECT ''::VARCHAR AS query WHERE false")
    after = facts.last_ts + 1
    everything_trains = Split("day", facts.day0, test=(after, after))
    short = cfg.model_copy(update={"split": cfg.split.model_copy(update={"max_history": 0})})
    return facts, write_requests(duck, short, log, facts, everything_trains, out), bad
