"""Training: the loop, its configuration, what makes it resumable, and where it logs."""
