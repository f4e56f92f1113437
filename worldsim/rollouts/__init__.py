"""Recorded rollouts: collected from any Gymnasium env, at rest as a Minari data set, sampled from flat arrays."""
