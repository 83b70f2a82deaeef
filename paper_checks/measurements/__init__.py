"""What is measured and kept: data, networks and curvature, training, and how long it takes."""
