"""The proof of a group: everything that is stored of its customers, recomputed, and what does not agree, named.

A group is most often one customer alone; customers whom sources tie to each other are proven together, because a
fact told of one may move units in the books of another. `group` is where a proof begins, `rows` are what it reads and
`findings` what it leaves; the checks are in `inbox`, `chain`, `persons`, `sources`, `units`, `settlement`, `states`,
`outcomes` and `outbox`. What cannot be read (`reading`) is a finding, and what follows from it is left out.

Pure: rows in, findings out; where the rows come from is `verify`'s matter. Nothing is taken from the rows that can be
worked out from others. What an event says is hashed again, what a posting did is hashed again, the entries are added
up to the counters of grants and accounts, the facts are folded again to the terms of the grants and to who holds them,
and each account is settled again from nothing. So a row that was changed, lost or swapped disagrees with at least one
other, and the finding names it.

The checks of a group are made in the order of `Check`, which is from cause to effect: the first finding is the nearest
to what went wrong, those after it often follow from it. Two that a row which is gone disturbs as well, of outcomes and
of a customer's last instant, are made behind the others.
"""
