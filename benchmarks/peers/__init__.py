"""Adapters to other libraries, imported by the benchmarks alone; none of them is a dependency."""
