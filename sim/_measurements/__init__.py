"""What is measured of a network and its data, one function a file."""
