"""A shop's customers, made up from a seed: what they do, and how badly it is told.

Pure: the same seed and instant give the same records, byte for byte. First each customer's life is made, source by
source: `orders`, `subscriptions`, then what is used of it all (`using`). A source is made as a plot, a few turns that
it certainly takes, so that whatever the number of customers every type of fact is told; the rest is chance. Then it is
told (`telling`) as Commerce and services tell things: late, in another order, twice under one id, again under a new id,
once with other content, for a product nobody has defined; and among it records that nobody can apply (`poison`). What
a ledger must make of it follows from how it was made and is returned beside the records: `simulate.Truth`.

What cannot be known beforehand is what arrives first where topics, or the partitions of two customers, race. Nothing
in the truth depends on it.
"""
