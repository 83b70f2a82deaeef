"""Exact ways from the curvature of the outputs to the diagonal, one a file."""
