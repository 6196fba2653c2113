"""Many cells on many machines: what is sent to a worker, what comes back, and who is asked again.

The records are the only result. A worker is told which cell of which suite to run, as plain data; it plans the suite
anew, runs the cell by the code that the local executor runs, and writes the same records into the run's folder, which
all machines share. Nothing else of ours crosses the network, so any engine that starts Python somewhere will do.

    order.py         what a worker is told, and what it answers
    worker.py        the worker's side
    sign_of_life.py  what a worker at work shows, and how the cell of a dead one is taken over
    grid.py          from suites to orders, all of it checked first
    driver.py        who runs when, what is tried again, what is given up
    ray_engine.py    Ray
    slurm_engine.py  Slurm, by submitit
    view.py          what a person sees of it

This package and ``order`` and ``worker`` import nothing heavy: a worker sets its threads before torch is imported.
"""
