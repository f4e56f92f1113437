"""Films for people: the learned world beside the real one."""
