"""Equations as checks, and what an experiment beside one gives."""
