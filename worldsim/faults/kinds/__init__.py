"""The kinds of faults, and what several of them share."""
