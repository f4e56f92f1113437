"""Recorded rollouts: collected from any Gymnasium environment, at rest as a Minari data set, sampled from flat arrays."""
