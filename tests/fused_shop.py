"""A shop whose bundle fuses its answer: the toy log of eight days, and a pipeline run of it in a
few seconds.
"""

import numpy as np
import pyarrow as pa

from sidar.data import toy
from sidar.data.cleaning.clean import DAY_US

#: What one shopper typed and nobody else; no file may hold it.
PRIVATE = "zyzzogeton for my secret quux"
#: What users are hashed with; it stays on the machine, too.
SALT = "pepper of this shop"
QUERY = next(iter(toy.log_queries()))
FIRST = toy.FIRST_DAY // DAY_US
SETTINGS = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "before.parquet"},
    "embed": {"model": "hashing:64"},
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": {"steps": 3, "batch_size": 8, "validate_every": 3, "valid_requests": 4},
    "align": {"steps": 2, "batch_size": 4, "validate_every": 2, "valid_requests": 4},
    "memory": {"requests": 60},
    "privacy": {"salt": SALT},
}


def events(days):
    """The toy log of ``days`` (from 1), and in each one shopper's private query with a click."""
    log = toy.events()
    day = (np.array(log.column("ts").to_pylist()) - toy.FIRST_DAY) // DAY_US + 1
    log = log.filter(pa.array(np.isin(day, days)))
    own = {
        "user_id": "user00",
        "query": PRIVATE,
        "item_id": "T000",
        "position": 1,
        "action": "click",
        "bucket": "",
    }
    moments = [toy.FIRST_DAY + (d - 1) * DAY_US + 3600_000_000 for d in days]
    extra = [own | {"ts": ts, "session_id": f"p{ts}", "request_id": f"p{ts}"} for ts in moments]
    return pa.concat_tables([log, pa.Table.from_pylist(extra, schema=log.schema)])
