"""What is private to Keras or a framework: the only rooms that know such a name."""
