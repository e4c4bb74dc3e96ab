"""Rules, and the optimizer that gives every weight the settings they come to."""
