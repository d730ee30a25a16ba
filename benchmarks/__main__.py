"""The command line of the benchmarks."""

from benchmarks.harness.command import main

main()
