"""What `python -m benchmarks gpu` measures."""
