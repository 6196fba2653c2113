"""``python -m prunefuse_bench`` is the command line."""

from prunefuse_bench.cli import main

main()
