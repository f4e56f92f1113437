"""Evaluation: agents under faults, in the real environment and in the learned World, with paired statistics."""
