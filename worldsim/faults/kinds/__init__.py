"""The kinds of faults: parameters, and what they compose."""
