"""Cheap substitutes for the exact diagonal."""
