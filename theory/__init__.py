"""What the paper's assumptions imply, derived with sympy. Knows no torch."""
