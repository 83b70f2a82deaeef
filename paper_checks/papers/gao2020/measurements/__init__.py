"""What the checks of this paper measure and share beyond what every paper needs."""
