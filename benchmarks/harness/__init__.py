"""How benchmarks are run and kept: a sheet for the figures, the command line, and the pages made of results."""
