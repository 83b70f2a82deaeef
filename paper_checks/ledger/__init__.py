"""The ledger of runs: its rows, what is asked of it, and the criteria locked beside it."""
