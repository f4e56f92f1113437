"""The forms in which traces are exported, each read into spans."""
