"""The autograd tape: its graph, what an operation is, and what can be proved from it."""
