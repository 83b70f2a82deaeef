"""How a run is made: the network, the gradient of a batch, the step and what is measured of it."""
