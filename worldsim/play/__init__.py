"""What a person looks at: the learned world beside the real one."""
