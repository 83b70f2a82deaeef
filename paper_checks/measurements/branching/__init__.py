"""Runs that branch off from one point of training, and what is exact at such a point."""
