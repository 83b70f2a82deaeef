"""Deliberate errors, and the tests that must see them."""
