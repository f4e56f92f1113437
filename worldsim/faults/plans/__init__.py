"""Plans of faults: written down, checked, listed, described to editors."""
