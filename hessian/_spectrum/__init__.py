"""Spectra: products with kept tapes, eigenpairs, traces, densities, and sums by layer."""
