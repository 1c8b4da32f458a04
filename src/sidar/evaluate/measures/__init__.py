"""Measures of rankings, and the graded truth that they read."""
