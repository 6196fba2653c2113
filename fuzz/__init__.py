"""Fuzzing of what reads files from strangers: suites, data sets, tables of texts, submissions.

Each of the modules in :data:`HARNESSES` has

- ``seeds()``: valid and nearly valid inputs, made by code;
- ``test_one(data)``: one input. Some of it is read as a file as it stands; the rest chooses what a file is built of,
  names, contents and sizes that a header states, since raw bytes would never get past a checksum.

An input passes if it gives a result or a ``BadInput``, within seconds, and neither writes outside of a temporary folder
nor starts a program, connects to anywhere, or loads a pickle. ``make fuzz`` runs each for ten minutes with atheris,
guided by coverage; ``tests/test_fuzzing.py`` runs the seeds and some hundred mutations of them without it.
"""

HARNESSES = "configuration", "archives", "tables", "submissions"
