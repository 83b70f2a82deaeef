"""What a run depends on: the configuration, validated and hashable, and what its names mean."""
