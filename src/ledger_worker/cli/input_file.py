"""The argument FILE, where - is standard input."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import typer

__all__ = ["checked_file", "opened_file"]

_STANDARD_INPUT_BYTES_MAX = 4 * 1024**3
_CHUNK_BYTES = 1024 * 1024


def checked_file(file: Path) -> Path:
    """The same; a file that is not there is a wrong use of the command, said before any work is done."""
    if str(file) != "-" and not file.is_file():
        raise typer.BadParameter(f"{file} is {'no file' if file.exists() else 'not there'}, expected a file or -")
    return file


@contextmanager
def opened_file(file: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The content, which can be read twice, and its size in bytes; standard input is kept on disk for that."""
    if str(file) != "-":
        try:
            opened = file.open("rb")
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error
        with opened:
            yield opened, file.stat().st_size
        return
    with tempfile.TemporaryFile() as kept:
        while chunk := sys.stdin.buffer.read(_CHUNK_BYTES):
            kept.write(chunk)
            if kept.tell() > _STANDARD_INPUT_BYTES_MAX:
                raise typer.BadParameter(f"standard input has more than {_STANDARD_INPUT_BYTES_MAX} bytes")
        size = kept.tell()
        kept.seek(0)
        yield kept, size
