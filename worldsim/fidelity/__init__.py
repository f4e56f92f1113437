"""Fidelity of a World: curves over the horizon, one-step accuracy, calibration of trust, a certificate."""
