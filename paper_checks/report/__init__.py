"""The report: what stands on the page, in plain words, beside the ledger."""
