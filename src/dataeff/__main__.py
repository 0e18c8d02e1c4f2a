"""`python -m dataeff`: the command line."""

from dataeff.cli import main

main()
