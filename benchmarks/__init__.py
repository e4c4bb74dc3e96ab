"""What the package costs, measured beside what a user would take instead.

``python -m benchmarks`` measures with the backend that Keras has, on the device
that the backend finds; see docs/benchmarks.md.
"""
