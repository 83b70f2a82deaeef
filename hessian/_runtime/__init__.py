"""What every stage rests on: the ledger of what is owed, threads, processes, memory, products."""
