"""Recorded rollouts: collected from any Gymnasium env, stored as a Minari data set, sampled from flat arrays."""
