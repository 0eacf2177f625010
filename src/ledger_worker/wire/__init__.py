"""Bytes to values and back: schemas, codec, framing, decode, encode, JSON lines and headers.

The only room that knows Avro. It opens no connection: what asks a schema registry is given to it (`framing.Registry`).
"""
