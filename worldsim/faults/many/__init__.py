"""Faults on many environments at once: calls, replies and memories as columns."""
