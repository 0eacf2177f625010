"""A second opinion on what customers have, written from `docs/reference/rules.md` and from nothing else.

`terms` reads what each source gives off its facts, `units` follows every single unit through time. Both answer from all
facts, every time, and share nothing with the rules in `domain` but the values of events and of the catalogue. They are
slow and keep nothing, which is what makes them worth asking.
"""
