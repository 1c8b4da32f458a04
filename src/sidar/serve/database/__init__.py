"""Where a service keeps what it has acknowledged: a file of SQLite, or PostgreSQL for several
replicas.

Stores are written once, in the SQL that both read; what differs is here.
"""

from sidar.serve.database.base import Database, Session, StoreError, StoreUnreachableError
from sidar.serve.database.opening import is_postgres, open_database

__all__ = [
    "Database",
    "Session",
    "StoreError",
    "StoreUnreachableError",
    "is_postgres",
    "open_database",
]
