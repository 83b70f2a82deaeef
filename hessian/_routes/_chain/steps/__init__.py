"""One family of operations a file: what each does to rows of something above it."""
