"""Cheap estimates of curvature that are not in `hessian.estimate`, one definition a file."""
