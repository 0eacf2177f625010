"""The command `ledger-worker`: a file for each noun, a function for each verb.

A command reads its arguments, calls one room below and prints. No rule and no SQL may live here. What a command needs
is imported when it runs, so that `--help` is there at once.

Exit statuses are the same everywhere: 0 fine, 1 something was found or what was given is refused, 2 wrong usage, 3 a
setting has to be put right, 4 something is unavailable and may come back.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ledger_worker.cli import catalog, changes, customer, database, demo, dev, events, keys, ledger, run, serve, topics
from ledger_worker.cli.output import CONFIGURATION, UNAVAILABLE, print_error
from ledger_worker.errors import ConfigurationError, UnavailableError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Shows what a person can do something about as one sentence. Everything else is a bug, and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as the group declares it
        """The command has run. Raises Exit with the status of what a person can do something about."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            print_error(str(error))
            raise typer.Exit(CONFIGURATION) from error
        except UnavailableError as error:
            print_error(str(error))
            raise typer.Exit(UNAVAILABLE) from error


app = typer.Typer(
    name="ledger-worker",
    cls=_Commands,
    no_args_is_help=True,
    # Typer's own tracebacks are for those who write commands; a bug is shown as Python shows it.
    pretty_exceptions_enable=False,
    # Paragraphs are filled to the width of the terminal, whatever their lines are here.
    rich_markup_mode="markdown",
    epilog="Exit status: 0 fine, 1 findings or refused input, 2 usage, 3 configuration, 4 unavailable.",
)
for _noun in (dev, database, topics, catalog, run, events, changes, customer, ledger, keys):
    app.add_typer(_noun.app)
app.command()(demo.demo)
app.command()(serve.serve)


def main() -> None:
    """The command line, as it is installed."""
    app()


def _version(*, is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(version("ledger-worker"))
        raise typer.Exit


@app.callback()
def _ledger_worker(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda asked: _version(is_asked=asked), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Turn purchases, subscriptions and usage into what each customer may do.

    Settings are environment variables (LEDGER_DATABASE_URL, LEDGER_KAFKA_BOOTSTRAP, ...) or a file that LEDGER_CONFIG
    names. With none of these three set, commands work on the cluster that `dev up` runs in this folder.
    """
