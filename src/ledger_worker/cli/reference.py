"""Pages of the documentation that are made from the code: commands, settings, outcomes and reasons, the catalogue file.

`python -m ledger_worker.cli.reference cli` prints docs/reference/cli.md, and so with `settings`, `outcomes` and
`catalogue`. Tests refuse pages that say other than the code does.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from ledger_worker.config import reference

__all__ = ["api_page", "catalogue_page", "commands_page", "openapi_page", "outcomes_page"]

_COMMANDS = """\
# Commands

`python -m ledger_worker.cli.reference cli > docs/reference/cli.md` prints this page anew.

Every command has `--help`, and all but `run` and `demo` have `--json`: one line of JSON on standard output, for scripts
(of `changes tail`, a line for each change). Errors and remarks are on standard error. An `INSTANT` is a date and a time
with its zone, such as `2026-03-01T00:00:00Z`.

| exit status | meaning |
|---|---|
| 0 | fine |
| 1 | something was found, or what was given is refused |
| 2 | the command is used wrongly |
| 3 | a setting or a missing prerequisite has to be put right; the message says which |
| 4 | the database, the brokers or the registry cannot be reached: the same command may succeed later |

[Settings](settings.md) come from the environment. When none of `LEDGER_DATABASE_URL`, `LEDGER_KAFKA_BOOTSTRAP` and
`LEDGER_CONFIG` is set and `ledger-worker dev up` has a cluster running in the present folder (`.ledger-cluster`),
commands work on that one. A setting always wins: with one of the three set, the local cluster is not looked for.

`catalog apply` ends with a list of what the published versions mean for customers who have the products already: a row
for each customer and entitlement, as it stood before and stands after. `--dry-run` makes the same list and touches
nobody. Fifty rows are shown; `--json` has all.

| word | meaning |
|---|---|
| `owes` | debt grew, or the allocation shrank below what is used |
| `loses` | access ended, or less is left |
| `gains` | access began, more is left, or the limit is higher |
| `changes` | something else that is told, such as the end |

Of several that are true the first is named.
"""

_OUTCOMES = """\
# Outcomes and reasons

What became of an event, why a record became a dead letter, and why a request was not granted. The lists may grow and
never shrink, so read them as texts and let a word that you do not know be no error.

`python -m ledger_worker.cli.reference outcomes > docs/reference/outcomes.md` prints this page anew.
"""


_API = """\
# The HTTP API

`ledger-worker serve` answers where `LEDGER_API_HOST` and `LEDGER_API_PORT` say; any number of these processes stand
side by side. [openapi.json](openapi.json) is the whole contract, served at `/openapi.json`: every field with its
limits, every problem. `/livez` and `/readyz` say whether the process and the database answer.

* **Keys.** Every call under `/v1` has the header `Authorization: Bearer KEY`. The first key is made by
  `ledger-worker keys create NAME --role admin --note WHY`, others over HTTP. Of a key only a hash is kept: it is shown
  once. The name of a key is the caller of what is asked with it.
* **Idempotency.** Whatever uses, holds or gives something needs `Idempotency-Key`: sent again with the same content,
  the answer is the first one, whatever has happened since; with other content it is `key-reused`.
* **A check that says no** is 200 with `allowed` false and the reason. A request that the ledger refuses is 409,
  `refused`, with the reason and the answer as its members ([reasons](outcomes.md)).
* **Read your own writes** with `min_sequence`: every answer says the customer's `sequence`.
* **Instants** have a zone. Fields and parameters that nobody knows are refused.

`python -m ledger_worker.cli.reference api > docs/reference/api.md` prints this page anew, and with
`openapi` its document.

"""

_CATALOGUE = """\
# The catalogue file

What can be had, and what each product gives, as TOML for `ledger-worker catalog apply`:
[docs/examples/catalogue.toml](../examples/catalogue.toml) has quotas, access and settings,
[docs/examples/teams.toml](../examples/teams.toml) seats, what recurs, and warnings before an end. A field that is not
listed here is refused.

Each entitlement and each offer is published as a version that never changes. Applying a file publishes the next version
of what differs from the newest one, and nothing else: the same file a second time changes nothing, and what is left out
of the file stays as it is. A version with `next_period` or `now` then reaches whoever has the product, and it is listed
who owes, loses and gains ([commands](cli.md)).

`python -m ledger_worker.cli.reference catalogue > docs/reference/catalogue.md` prints this page anew.
"""


def catalogue_page() -> str:
    """The page of the catalogue file, as Markdown."""
    from ledger_worker.domain.catalogue import Allowance, Entitlement, Offer
    from ledger_worker.wire.catalogue_file import fields_of

    lines = [_CATALOGUE]
    for title, kind in (("[[entitlement]]", Entitlement), ("[[offer]]", Offer), ("[[offer.allowance]]", Allowance)):
        lines += [f"## `{title}`\n", f"{inspect.cleandoc(kind.__doc__ or '')}\n"]
        lines += ["| field | expected | default | meaning |", "|---|---|---|---|"]
        for field in fields_of(kind):
            default = {None: "must be written", "null": "(none)"}.get(field.default, f"`{field.default}`")
            lines.append(f"| `{field.name}` | {field.expected} | {default} | {field.meaning} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def api_page() -> str:
    """The page of the HTTP API, as Markdown: its paths, who may call them, and its problems."""
    from ledger_worker.api.problems import TYPE_PREFIX, ProblemType
    from ledger_worker.api.table import ROUTES
    from ledger_worker.operations.keys import Role

    lines = [_API, "## Roles\n", "| role | what it may do |", "|---|---|"]
    lines += [f"| `{word}` | {meaning} |" for word, meaning in _meanings(Role)]
    lines += ["", "## Paths\n", "| call | what for | roles |", "|---|---|---|"]
    for route in ROUTES:
        roles = ", ".join(sorted(role.value for role in route.roles))
        lines.append(f"| `{route.method} {route.path}` | {route.summary} | {roles} |")
    lines += ["", "## Problems\n", f"Their `type` begins with `{TYPE_PREFIX}`. The list may grow.\n"]
    lines += ["| type | status | meaning |", "|---|---|---|"]
    lines += [f"| `{kind.slug}` | {kind.status.value} | {kind.title} |" for kind in ProblemType]
    return "\n".join(lines) + "\n"


def openapi_page() -> str:
    """The OpenAPI document, as JSON that a person can compare line by line."""
    import msgspec

    from ledger_worker.api.openapi import document
    from ledger_worker.api.table import ROUTES

    return msgspec.json.format(msgspec.json.encode(document(ROUTES))).decode() + "\n"


def commands_page() -> str:
    """The page of all commands, as Markdown."""
    from typer.main import get_command

    from ledger_worker.cli import app

    return "\n".join((_COMMANDS, *_command_lines("ledger-worker", get_command(app)))).rstrip() + "\n"


def outcomes_page() -> str:
    """The page of outcomes, dead-letter reasons and reasons of requests, as Markdown, in the order of the checks."""
    from ledger_worker.domain.outcomes import DeadLetterReason, Outcome
    from ledger_worker.domain.requests import RequestReason

    lines = [_OUTCOMES]
    for title, listed in (
        ("Outcomes", Outcome),
        ("Reasons of dead letters", DeadLetterReason),
        ("Reasons of requests that are refused", RequestReason),
    ):
        lines += [f"## {title}\n", f"{inspect.cleandoc(listed.__doc__ or '')}\n", "| word | meaning |", "|---|---|"]
        lines += [f"| `{word}` | {meaning} |" for word, meaning in _meanings(listed)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _command_lines(path: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - a command or group as Typer makes it
    yield f"## `{path}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and "completion" not in each.name]
    if arguments or options:
        yield "| argument or option | what it does |"
        yield "|---|---|"
        for each in arguments:
            several = " ..." if each.nargs == -1 else ""
            optional = "" if each.required else " (optional)"
            yield f"| `{each.metavar or each.name.upper()}{several}`{optional} | {each.help} |"
        for each in options:
            names = ", ".join(f"`{name}`" for name in each.opts)
            value = "" if each.is_flag else f" `{each.metavar or each.name.upper()}`"
            default = f" (default `{each.default}`)" if not each.is_flag and each.default is not None else ""
            required = " (required)" if each.required else ""
            yield f"| {names}{value}{required} | {each.help}{default} |"
        yield ""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command_lines(f"{path} {name}", inner)


def _meanings(listed: type[StrEnum]) -> Iterator[tuple[str, str]]:
    """Each member's value with the text that stands below it: Python keeps no docstring of a member."""
    (tree,) = ast.parse(inspect.getsource(listed)).body
    below = iter(tree.body if isinstance(tree, ast.ClassDef) else ())
    for statement in below:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            text = next(below)
            if not isinstance(text, ast.Expr) or not isinstance(text.value, ast.Constant):
                raise TypeError(f"{statement.targets[0].id} of {listed.__name__} has no text below it")
            yield listed[statement.targets[0].id].value, " ".join(str(text.value.value).split())


if __name__ == "__main__":
    _PAGES = {
        "api": api_page,
        "catalogue": catalogue_page,
        "cli": commands_page,
        "openapi": openapi_page,
        "outcomes": outcomes_page,
        "settings": reference,
    }
    sys.stdout.write(_PAGES[sys.argv[1]]())
