"""Rows go into append-only tables by binary COPY, the fastest way in that also keeps every value's type."""

from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg import Connection as Session
from psycopg import Error as DriverError
from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

__all__ = ["copy_rows"]


def copy_rows(
    connection: Connection,
    table: LiteralString,
    columns: Sequence[tuple[LiteralString, LiteralString]],
    rows: Iterable[Sequence[object]],
) -> None:
    """The rows are in the table.

    `columns` are names with their PostgreSQL types, each row holds their values in that order. What the server or the
    driver refuses is raised as SQLAlchemy raises it for every other statement: callers tell faults apart by that.
    """
    session = connection.connection.driver_connection
    if not isinstance(session, Session):
        msg = f"the driver's connection is {type(session).__name__}, expected psycopg's"
        raise TypeError(msg)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table), sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    )
    try:
        with session.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([kind for _, kind in columns])
            for row in rows:
                copy.write_row(row)
    except DriverError as error:
        if session.broken:
            connection.invalidate(error)
        raise DBAPIError.instance(
            f"COPY {table}",
            None,
            error,
            DriverError,
            connection_invalidated=session.broken,
            dialect=connection.dialect,
        ) from error
