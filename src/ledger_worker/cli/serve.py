"""`ledger-worker serve`: the HTTP API."""

from ledger_worker.cli.connections import read_settings

__all__ = ["serve"]


def serve() -> None:
    """Serve the HTTP API until SIGTERM or SIGINT, as the settings LEDGER_API_* say; /openapi.json describes it.

    Any number of these processes answer side by side. The first key is made by `ledger-worker keys create`.
    """
    from ledger_worker.api.server import serve as serve_api

    serve_api(read_settings())
