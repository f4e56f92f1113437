"""How true a World is: curves over the horizon, one-step accuracy, calibration of trust, a certificate."""
