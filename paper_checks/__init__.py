"""Confronts theory with simulation: verdicts, figures, the report."""
