"""Exact second derivatives of a given network. Knows no paper."""
