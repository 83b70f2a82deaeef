"""The papers under audit, a folder of statements each; what judges them knows none of them."""
