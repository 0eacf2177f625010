"""The transaction: fence, lock, inbox, load, decide, write, outbox. The only way to change the ledger.

`transaction` begins and commits, and says in which order; it takes a `batch`. What loads for a decision is in `load`,
deciding with the histories it asks for in `rounds`, and what writes a decision's rows in `write`.
"""
