"""The catalogue that a transaction decides by, kept between transactions."""

from sqlalchemy import Connection

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.store import catalogue as catalogue_store

__all__ = ["Catalogues"]


class Catalogues:
    """The newest published catalogue, read once per version and process."""

    def __init__(self) -> None:
        self._newest: Catalogue | None = None

    def at(self, connection: Connection, version: int) -> Catalogue:
        """The catalogue of `version`; published versions never change, so a version that is known is not read again."""
        if self._newest is None or self._newest.version != version:
            self._newest = catalogue_store.read(connection, version)
        return self._newest
