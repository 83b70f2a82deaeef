"""`python -m paper_checks.cli` is the command `cblr`."""

from paper_checks.cli import main

main()
