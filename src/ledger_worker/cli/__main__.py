"""`python -m ledger_worker.cli`: the command line by whichever interpreter has the package."""

from ledger_worker.cli import main

main()
