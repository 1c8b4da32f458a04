"""Many requests in flight: a bounded queue, passes over what waits, and worker processes."""

from sidar.serve.engine.engine import Engine, Observer
from sidar.serve.engine.queue import ClosedError, OverloadedError, Ticket

__all__ = ["ClosedError", "Engine", "Observer", "OverloadedError", "Ticket"]
