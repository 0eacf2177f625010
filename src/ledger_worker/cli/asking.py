"""`ledger-worker customer consume | hold | confirm | release`: units are asked for as a service asks for them."""

import re
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from ledger_worker.cli.connections import open_database, read_settings, unwatched_stages
from ledger_worker.cli.output import FINDINGS, Json, print_error, print_json

if TYPE_CHECKING:
    from ledger_worker.domain.requests import Answer, Asked, Granted

__all__ = ["CALLER", "KEY_HELP", "answer_to", "confirm", "consume", "hold", "key_or_new", "release"]

CALLER = "command-line"
"""Who asks, of what is asked on the command line."""
KEY_HELP = "Names the request: asked again under it, it is answered as the first time; a new key if not said."
_NUMBER = re.compile(r"-?[0-9]{1,20}")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The customer, as Commerce calls it.")]
_Items = Annotated[list[str], typer.Argument(metavar="ENTITLEMENT=UNITS", help="What is asked for, such as exports=3.")]
_UpTo = Annotated[bool, typer.Option("--up-to", help="Take what is left where that is less.")]
_Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", help=KEY_HELP, show_default=False),
]
_Hold = Annotated[str, typer.Argument(metavar="HOLD", help="The key of the hold, as `customer hold` printed it.")]


def _item(text: str) -> tuple[str, int]:
    """Raises BadParameter unless the text is an entitlement, an equals sign and a number."""
    name, _, units = text.rpartition("=")
    if not name or not _NUMBER.fullmatch(units):
        raise typer.BadParameter(f"{text!r} asks for nothing, expected ENTITLEMENT=UNITS such as exports=3")
    return name, int(units)


def consume(customer_id: _Id, items: _Items, *, up_to: _UpTo = False, key: _Key = None, json: Json = False) -> None:
    """Ask for units and use them: all that are asked for or, without --up-to, none.

    Exit status 1 when they are refused.
    """
    from ledger_worker.domain.requests import Item, Request

    asked = tuple(Item(entitlement=name, units=units) for name, units in map(_item, items))
    answer = answer_to(Request(caller=CALLER, key=key_or_new(key), customer_id=customer_id, items=asked, up_to=up_to))
    _tell(answer, "granted", json=json)


def hold(
    customer_id: _Id,
    items: _Items,
    *,
    seconds: Annotated[
        int, typer.Option("--for", metavar="SECONDS", help="How long, unless it is confirmed or released before.")
    ] = 900,
    up_to: _UpTo = False,
    key: _Key = None,
    json: Json = False,
) -> None:
    """Reserve units for a time: confirmed before it is over they are used, and else they come back by themselves.

    Exit status 1 when they are refused.
    """
    from ledger_worker.domain.requests import Item, Request

    asked = tuple(Item(entitlement=name, units=units) for name, units in map(_item, items))
    request = Request(
        caller=CALLER, key=key_or_new(key), customer_id=customer_id, items=asked, up_to=up_to, hold_seconds=seconds
    )
    answer = answer_to(request)
    _tell(answer, "held", json=json)
    if not json and answer.expires_at is not None:
        typer.echo(f"held under {answer.key} until {answer.expires_at:%Y-%m-%d %H:%M:%S}Z")


def confirm(
    customer_id: _Id,
    held: _Hold,
    items: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENTITLEMENT=UNITS", help="What of it is used; all of it if not said."),
    ] = None,
    *,
    key: _Key = None,
    json: Json = False,
) -> None:
    """Use what was held by `customer hold`, all or some of it. The rest comes back: the hold is over.

    Exit status 1 when there is no such hold any more, or it has less.
    """
    from ledger_worker.domain.requests import Confirm, Item

    used = tuple(Item(entitlement=name, units=units) for name, units in map(_item, items or ()))
    answer = answer_to(Confirm(caller=CALLER, key=key_or_new(key), customer_id=customer_id, hold=held, items=used))
    _tell(answer, "confirmed", json=json)


def release(customer_id: _Id, held: _Hold, *, key: _Key = None, json: Json = False) -> None:
    """Give back all that was held by `customer hold`.

    Exit status 1 when there is no such hold any more.
    """
    from ledger_worker.domain.requests import Release

    answer = answer_to(Release(caller=CALLER, key=key_or_new(key), customer_id=customer_id, hold=held))
    _tell(answer, None, json=json)


def key_or_new(key: str | None) -> str:
    """The key that was given, or one that nobody has."""
    return uuid4().hex if key is None else key


def answer_to(asked: "Asked") -> "Answer":
    """What the ledger answers; it is committed."""
    from ledger_worker.apply.catalogues import Catalogues
    from ledger_worker.apply.requests import answer_requests

    with open_database(read_settings(), "ledger-worker customer") as engine:
        (answer,) = answer_requests(engine, [asked], Catalogues(), unwatched_stages())
    return answer


def _tell(answer: "Answer", done: str | None, *, json: bool) -> None:
    """`done` is what was done with the units that the answer counts; None where they are none, and all is released.

    Raises Exit when it was refused.
    """
    if json:
        print_json(answer)
    elif not answer.is_granted:
        print_error(f"{answer.reason}: {answer.message}")
    else:
        for item in answer.items:
            typer.echo(_line(item, done))
    if not answer.is_granted:
        raise typer.Exit(FINDINGS)


def _line(item: "Granted", done: str | None) -> str:
    shown = item.decision
    left = "any number" if shown is None or shown.unlimited else f"{shown.remaining} of {shown.limit}"
    if done is None:
        return f"{item.entitlement}: released, {left} left"
    less = "" if item.granted == item.asked else f" of {item.asked}"
    over = sum(one.units for one in item.covered if one.grant_id is None)
    beyond = f", {over} of them as overage" if over else ""
    return f"{item.entitlement}: {item.granted}{less} {done}{beyond}, {left} left"
