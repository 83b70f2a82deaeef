"""What makes steps faster by moving memory: joined parameters, lanes, products, freed pages."""
