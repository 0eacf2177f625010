"""The rules, pure: facts in, terms, coverage, entries and changes out.

No clock, no settings, no random number, no database: everything a rule reads is an argument. Imports nothing of this
project but `errors`.
"""
