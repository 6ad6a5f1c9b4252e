"""`python -m palmette.cli`."""

from palmette.cli import main

main()
