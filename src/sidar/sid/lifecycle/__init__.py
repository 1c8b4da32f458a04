"""Semantic IDs after the first fit: refresh, versions, alarms."""
