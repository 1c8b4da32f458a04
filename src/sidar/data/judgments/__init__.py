"""Queries with graded items: judged sets, targets in the log, held-out queries."""
