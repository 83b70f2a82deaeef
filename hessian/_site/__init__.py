"""Where a parameter meets the data, and the sums over samples taken there."""
