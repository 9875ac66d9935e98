"""The tasks of a run, one file for each kind: each has a `main` that a child process calls."""
