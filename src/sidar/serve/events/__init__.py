"""What was shown and what was chosen: kept, read as a user's history, and handed on as a log."""

from sidar.serve.events.log import EventLog
from sidar.serve.events.rows import Chosen, Shown
from sidar.serve.events.store import EventStore, SqlEvents, open_events

__all__ = ["Chosen", "EventLog", "EventStore", "Shown", "SqlEvents", "open_events"]
