"""Runs for the ledger: which of a plan are there, which are left, and how one is made."""
