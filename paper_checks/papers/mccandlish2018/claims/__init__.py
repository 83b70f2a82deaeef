"""What is read off the measurements for each claim of this paper."""
