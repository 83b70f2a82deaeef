"""Examples are scripts: a test runs them, and a search for doctests must not."""

collect_ignore = ["vit_picture.py"]
