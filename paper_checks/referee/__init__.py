"""Every cheap estimate of curvature against the exact diagonal, on networks of many kinds."""
