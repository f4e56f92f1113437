"""Plans learned from the calls that production recorded."""
