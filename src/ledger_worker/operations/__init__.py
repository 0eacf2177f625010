"""What an operator runs beside the workers: publish, verify and whatever repairs or proves the ledger."""
