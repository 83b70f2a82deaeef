"""The chain route: curvature of every sample carried back, operation by operation."""
