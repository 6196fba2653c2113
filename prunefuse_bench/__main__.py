from prunefuse_bench.cli import main

main()
