"""What faults are composed of: effects on calls and on replies, with their selections and deliveries."""
