"""Networks, data and measurements. May use `hessian`, never `theory`."""
