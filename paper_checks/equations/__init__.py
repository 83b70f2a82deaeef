"""The 28 equations as checks, and an experiment for each."""
