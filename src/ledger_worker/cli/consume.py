"""`ledger-worker customer consume`: units are asked for and answered, as a service asks for them."""

import re
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from ledger_worker.cli.connections import open_database, read_settings
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json

if TYPE_CHECKING:
    from ledger_worker.domain.requests import Answer

__all__ = ["consume"]

_CALLER = "command-line"
_NUMBER = re.compile(r"-?[0-9]{1,20}")


def _item(text: str) -> tuple[str, int]:
    """Raises BadParameter unless the text is an entitlement, an equals sign and a number."""
    name, _, units = text.rpartition("=")
    if not name or not _NUMBER.fullmatch(units):
        raise typer.BadParameter(f"{text!r} asks for nothing, expected ENTITLEMENT=UNITS such as exports=3")
    return name, int(units)


def consume(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")],
    items: Annotated[
        list[str], typer.Argument(metavar="ENTITLEMENT=UNITS ...", help="What is asked for, such as exports=3.")
    ],
    *,
    up_to: Annotated[bool, typer.Option("--up-to", help="Take what is left where that is less.")] = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Asked again under it, it is answered as the first time.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Ask for units: all of them are granted, or none, and the answer says from which grants.

    Exit status 1 when they are refused.
    """
    from ledger_worker.apply.catalogues import Catalogues
    from ledger_worker.apply.requests import answer_requests
    from ledger_worker.domain.requests import Item, Request
    from ledger_worker.metrics import CollectorRegistry, Metrics, Stages

    request = Request(
        caller=_CALLER,
        key=uuid4().hex if key is None else key,
        customer_id=customer_id,
        items=tuple(Item(entitlement=name, units=units) for name, units in map(_item, items)),
        up_to=up_to,
    )
    stages = Stages(Metrics(CollectorRegistry()))
    with open_database(read_settings(), "ledger-worker customer") as engine:
        (answer,) = answer_requests(engine, [request], Catalogues(), stages)
    if json:
        print_json(answer)
    else:
        _print(answer)
    if not answer.is_granted:
        raise typer.Exit(FINDINGS)


def _print(answer: "Answer") -> None:
    if not answer.is_granted:
        print_error(f"{answer.reason}: {answer.message}")
        return
    for item in answer.items:
        shown = item.decision
        left = "any number" if shown is None or shown.unlimited else f"{shown.remaining} of {shown.limit}"
        less = "" if item.granted == item.asked else f" of {item.asked}"
        over = sum(one.units for one in item.covered if one.grant_id is None)
        beyond = f", {over} of them as overage" if over else ""
        typer.echo(f"{item.entitlement}: {item.granted}{less} granted{beyond}, {left} left")
