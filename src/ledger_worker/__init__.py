"""The Entitlement Ledger: what customers bought, kept as what they may do.

Nothing is imported here, so that a service which uses only `ledger_worker.view` loads only that.
`docs/ARCHITECTURE.md` says what each room is for and which may import which.
"""
