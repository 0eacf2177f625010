"""The HTTP API: one table of routes that the router, the OpenAPI document and the tests of roles share.

A handler takes a `Call`, asks one room below and returns a value. No rule and no SQL may live here.
"""
