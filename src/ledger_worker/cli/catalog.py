"""`ledger-worker catalog`: what can be had, and what each product gives, from a file into published versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ledger_worker.cli.connections import open_database, read_settings, unwatched_stages
from ledger_worker.cli.input_file import checked_file, opened_file
from ledger_worker.cli.output import FINDINGS, Json, print_json, print_note, print_table, progress, shortened

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ledger_worker.operations.publish import Comparison
    from ledger_worker.operations.reach import Affected, Balance, Progress, Reach
    from ledger_worker.wire.catalogue_file import Definitions

app = typer.Typer(name="catalog", help="Entitlements and offers: checked, compared, published.", no_args_is_help=True)

_File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The catalogue, in TOML; - is standard input.", callback=checked_file),
]

_BYTES_MAX = 64 * 1024 * 1024
_REACHED_SHOWN_MAX = 50


class _Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What `check --json` prints."""

    entitlements: int
    offers: int
    problems: tuple[str, ...]


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What `diff --json` and `apply --json` print.

    `catalogue_version` is the one in force afterwards, or the one that would be; `unoffered_events` is null where
    events were not counted. `reach` is whom the published versions reach, all of them; null where nobody was.
    """

    published: bool
    catalogue_version: int
    definitions: tuple[object, ...]
    problems: tuple[str, ...]
    unoffered_events: int | None = None
    reach: object | None = None


@app.command()
def check(file: _File, *, json: Json = False) -> None:
    """Judge the file by itself, with no database: exit status 1 when it could not be the first catalogue."""
    from ledger_worker.domain.catalogue import Catalogue, definition_problems

    defined = _read(file)
    problems = defined.problems
    if not problems:
        nothing = Catalogue(version=0, entitlements={}, offers={})
        problems = tuple(definition_problems(defined.entitlements, defined.offers, nothing))
    if json:
        print_json(
            _Checked(entitlements=len(defined.entitlements), offers=len(defined.offers), problems=problems),
        )
    elif not problems:
        typer.echo(f"{file} is fine: {len(defined.entitlements)} entitlements, {len(defined.offers)} offers.")
    _exit_over(file, problems)


@app.command()
def diff(file: _File, *, json: Json = False) -> None:
    """Show, field by field, what applying the file would publish; exit status 1 when that is anything."""
    from ledger_worker.operations.publish import rehearse_publish

    defined = _read(file)
    with open_database(read_settings(), "ledger-worker catalog") as engine:
        compared = rehearse_publish(engine, defined)
    if json:
        print_json(_shown(compared, published=False))
    else:
        rows: list[tuple[str | None, ...]] = [
            (f"{each.kind} {each.key}", each.standing, difference.field, difference.published, difference.defined)
            for each in compared.definitions
            for difference in each.differences
        ]
        rows += [
            (f"{each.kind} {each.key}", each.standing, None, None, None)
            for each in compared.definitions
            if each.standing == "new"
        ]
        if rows:
            print_table(None, ("definition", "", "field", "published", "in the file"), rows)
        else:
            typer.echo(f"Nothing differs from catalogue version {compared.catalogue_version}.")
    _exit_over(file, compared.problems)
    if compared.differs:
        raise typer.Exit(FINDINGS)


@app.command()
def apply(
    file: _File,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but commit: the list is made, nobody is touched.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish what is new or changed in the file, then reach whoever has its products already, and say what that means.

    What is published stays the version it is, and nothing is withdrawn by leaving it out of the file. No event is
    decided while this publishes. Then each order and subscription that a version with `apply` next_period or now
    reaches is settled again, beside running workers: who owes, loses and gains is listed. Where that is interrupted,
    applying the same file again does the rest. Exit status 1 when the file is refused, and then nothing is published,
    or when an order or subscription could not be reached.
    """
    from ledger_worker.operations.publish import count_unoffered, publish, rehearse_publish

    defined = _read(file)
    with open_database(read_settings(), "ledger-worker catalog") as engine:
        compared = rehearse_publish(engine, defined) if dry_run else publish(engine, defined)
        reached = None if compared.problems else _reach(engine, defined, is_rehearsal=dry_run)
        unoffered = count_unoffered(engine)
    is_published = compared.differs and not compared.problems and not dry_run
    if json:
        print_json(_shown(compared, published=is_published, unoffered=unoffered, reached=reached))
    else:
        rows = [(each.kind, each.key, each.standing.replace("_", " "), each.version) for each in compared.definitions]
        print_table(None, ("kind", "key", "", "version"), rows)
        if compared.problems:
            typer.echo("Nothing is published.")
        elif not compared.differs:
            typer.echo(f"There was nothing to publish: this is catalogue version {compared.catalogue_version}.")
        else:
            will_be = "would become" if dry_run else "is now"
            typer.echo(f"The catalogue {will_be} version {compared.catalogue_version}.")
        if reached is not None:
            _print_reach(reached, is_rehearsal=dry_run)
        if unoffered:
            print_note(f"{unoffered} events named a SKU that had no offer when they were applied.")
    _exit_over(file, compared.problems)


def _reach(engine: "Engine", defined: "Definitions", *, is_rehearsal: bool) -> "Reach":
    """Whom the published versions reach, whether or not this call published them: one before may have been cut off."""
    from ledger_worker.operations.reach import reach, rehearse_reach

    stages = unwatched_stages()
    with progress("rehearsing" if is_rehearsal else "reaching") as advance:

        def on_progress(now: "Progress") -> None:
            """Counted are sources: of those that were looked at, few may have come to other terms."""
            advance.to(now.looked_at, now.total)

        if is_rehearsal:
            return rehearse_reach(engine, defined, stages, on_progress=on_progress)
        try:
            return reach(engine, stages, on_progress=on_progress)
        except KeyboardInterrupt:
            print_note("Interrupted: what was reached stays so, and applying the same file again does the rest.")
            raise


def _print_reach(reached: "Reach", *, is_rehearsal: bool) -> None:
    if not reached.sources:
        return
    # By verdict as they are listed there, what hurts first; then by customer.
    order = list(reached.counts)
    shown = sorted(reached.affected, key=lambda each: order.index(each.verdict))[:_REACHED_SHOWN_MAX]
    if shown:
        columns = ("", "customer", "entitlement", "allowed", "value", "limit", "used", "debt", "over-allocated")
        print_table("would be told" if is_rehearsal else "told", columns, map(_reach_row, shown))
    if len(reached.affected) > len(shown):
        print_note(f"{len(reached.affected) - len(shown)} more are not shown; --json prints all of them.")
    counts = ", ".join(f"{verdict} {count}" for verdict, count in reached.counts.items())
    settled = "would be settled" if is_rehearsal else "were settled"
    typer.echo(
        f"Orders and subscriptions that {settled} again: {reached.sources}, to other terms: {reached.changed}. "
        f"Of customers' entitlements: {counts}."
    )


def _reach_row(affected: "Affected") -> tuple[str | None, ...]:
    before, after = affected.before, affected.after
    return (
        affected.verdict,
        affected.customer_id,
        affected.entitlement,
        _from_to("yes" if before.allowed else "no", "yes" if after.allowed else "no"),
        _from_to(shortened(before.value), shortened(after.value)),
        _from_to(_limit(before), _limit(after)),
        _from_to(before.used, after.used),
        _from_to(before.debt, after.debt),
        _from_to(before.over_allocated, after.over_allocated),
    )


def _from_to(before: object, after: object) -> str | None:
    if before == after:
        return str(after) if after else None
    return f"{'-' if before is None else before} -> {'-' if after is None else after}"


def _limit(balance: "Balance") -> object:
    return "unlimited" if balance.unlimited else balance.limit


def _shown(
    compared: "Comparison", *, published: bool, unoffered: int | None = None, reached: "Reach | None" = None
) -> _Shown:
    return _Shown(
        published=published,
        catalogue_version=compared.catalogue_version,
        definitions=compared.definitions,
        problems=compared.problems,
        unoffered_events=unoffered,
        reach=reached,
    )


def _read(file: Path) -> "Definitions":
    from ledger_worker.wire.catalogue_file import definitions_of_toml

    with opened_file(file) as (opened, _):
        content = opened.read(_BYTES_MAX + 1)
    if len(content) > _BYTES_MAX:
        raise typer.BadParameter(f"{file} has more than {_BYTES_MAX} bytes")
    try:
        return definitions_of_toml(content.decode())
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not UTF-8: {error}") from error


def _exit_over(file: Path, problems: tuple[str, ...]) -> None:
    for problem in problems:
        typer.echo(f"{file}: {problem}", err=True)
    if problems:
        raise typer.Exit(FINDINGS)
