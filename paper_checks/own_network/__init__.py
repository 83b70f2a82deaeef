"""A reader's own network: its curvature, and which approximations may be trusted."""
