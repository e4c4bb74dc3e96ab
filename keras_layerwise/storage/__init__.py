"""What is on disk, written and read without Keras or a framework."""
