"""What an operator can set: one value, read once when the process starts, and handed down from there.

Settings come from environment variables that begin with `LEDGER_`, and from a TOML file that `LEDGER_CONFIG` names; a
variable wins over the file. A name that nobody knows is an error, because a misspelt setting is a setting that does not
work. A message never shows a value that may be secret.

Nothing the ledger decides depends on a setting: they say where things are, how long to wait and how much to take.
"""

import difflib
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ledger_worker.errors import ConfigurationError

__all__ = ["PREFIX", "GroupProtocol", "LogLevel", "Setting", "Settings", "Start", "describe", "load", "reference"]

PREFIX = "LEDGER_"
"""What the name of every variable begins with."""

_CONFIG = "LEDGER_CONFIG"
_KAFKA = "LEDGER_KAFKA__"
# Variables of other programs of this project: its tests and its local cluster.
_NOT_OURS = ("LEDGER_TEST_", "LEDGER_LOCAL_")
_SENT_LENGTH_MAX = 100


class Start(StrEnum):
    """Where a topic that the ledger has never read is begun."""

    EARLIEST = "earliest"
    LATEST = "latest"


class GroupProtocol(StrEnum):
    """How the workers of a group share partitions."""

    AUTO = "auto"
    CONSUMER = "consumer"
    CLASSIC = "classic"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_SECRET = {"is_secret": True}
_Text = Annotated[str, Meta(min_length=1)]
_Topic = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. The variable of a field is its name in capitals behind `LEDGER_`."""

    database_url: Annotated[
        _Text,
        Meta(
            description="Where PostgreSQL is. The role of the service "
            "(`LEDGER_APPLICATION_ROLE`) must be granted to the user.",
            extra={**_SECRET, "expected": "`postgresql://USER:PASSWORD@HOST:PORT/DATABASE`"},
        ),
    ]
    application_role: Annotated[
        str, Meta(description="The role that sessions take after login; it owns nothing. Empty: keep the login role.")
    ] = "ledger_app"
    lock_timeout_seconds: Annotated[
        _Seconds, Meta(description="How long a statement waits for a lock before the batch is tried again.")
    ] = 5.0
    statement_timeout_seconds: Annotated[
        _Seconds, Meta(description="How long one statement may take before the batch is tried again.")
    ] = 15.0
    idle_in_transaction_session_timeout_seconds: Annotated[
        _Seconds,
        Meta(
            description="After how long PostgreSQL ends a transaction whose process does nothing, such as a frozen one."
        ),
    ] = 30.0

    kafka_bootstrap: Annotated[_Text, Meta(description="Brokers to begin with: `HOST:PORT`, several with commas.")] = (
        "localhost:9092"
    )
    kafka: Annotated[
        dict[str, str],
        Meta(
            description="Options of librdkafka by their own names, for security above all: a TOML table `kafka`, or "
            "variables such as `LEDGER_KAFKA__security__protocol`, where two underscores stand for a dot. Options that "
            "the ledger's promises rest on cannot be set.",
            extra=_SECRET,
        ),
    ] = {}
    consumer_group: Annotated[_Text, Meta(description="The consumer group that all workers of one ledger share.")] = (
        "entitlement-ledger"
    )
    group_protocol: Annotated[
        GroupProtocol,
        Meta(
            description="How workers share partitions: `consumer` (brokers from 4.0), `classic`, or `auto`, which "
            "takes the first where the broker has it."
        ),
    ] = GroupProtocol.AUTO
    start: Annotated[
        Start,
        Meta(
            description="Where a topic that the ledger has never read is begun. Afterwards the database says where "
            "to go on, and partitions that are added to a known topic are read from their first record."
        ),
    ] = Start.EARLIEST

    topic_purchases: Annotated[_Topic, Meta(description="Input: orders and refunds.")] = "commerce.purchases"
    topic_subscriptions: Annotated[_Topic, Meta(description="Input: subscriptions.")] = "commerce.subscriptions"
    topic_usage: Annotated[_Topic, Meta(description="Input: reported usage.")] = "entitlements.usage"
    topic_changes: Annotated[_Topic, Meta(description="Output: every change.")] = "entitlements.changes"
    topic_state: Annotated[_Topic, Meta(description="Output, compacted: each customer's whole current picture.")] = (
        "entitlements.state"
    )
    topic_dead_letters: Annotated[_Topic, Meta(description="Output: what could not be applied, with its reason.")] = (
        "entitlements.dead-letters"
    )

    batch_events_max: Annotated[
        int,
        Meta(
            ge=1, le=10_000, description="Most events in one transaction; fewer are taken while transactions are slow."
        ),
    ] = 1000
    batch_target_seconds: Annotated[
        _Seconds, Meta(description="How long a transaction should hold its locks: the size of batches adapts to it.")
    ] = 0.05
    linger_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="How long records are gathered at most while more keep coming. What stands alone is applied "
            "at once.",
        ),
    ] = 0.05
    lane_lease_seconds: Annotated[
        _Seconds,
        Meta(description="How long a relay that gives no sign keeps its lanes: until then nobody else publishes them."),
    ] = 10.0
    grace_seconds: Annotated[
        _Seconds, Meta(description="How long the process may take to stop after SIGTERM or SIGINT.")
    ] = 25.0

    schema_registry_url: Annotated[
        str,
        Meta(
            description="The Confluent Schema Registry, credentials as in `https://KEY:SECRET@HOST`. Empty: none, "
            "records are Avro single objects.",
            extra=_SECRET,
        ),
    ] = ""
    metrics_host: Annotated[
        _Text, Meta(description="The address that `/metrics`, `/livez` and `/readyz` listen on.")
    ] = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65_535, description="Their port; 0 turns them off.")] = 0
    stall_seconds: Annotated[
        _Seconds, Meta(description="After how long without a turn of its loop `/livez` calls the process dead.")
    ] = 60.0
    api_host: Annotated[_Text, Meta(description="The address that the HTTP API listens on.")] = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=1, le=65_535, description="Its port.")] = 8080
    api_threads: Annotated[
        int, Meta(ge=1, le=64, description="How many calls of the HTTP API are worked on at once in a process.")
    ] = 4
    api_answer_seconds: Annotated[
        _Seconds,
        Meta(description="How long a request over HTTP waits for its answer; then it may be asked again."),
    ] = 10.0
    log_level: Annotated[LogLevel, Meta(description="The least severe line that is written to standard error.")] = (
        LogLevel.INFO
    )
    crash_at: Annotated[
        str,
        Meta(
            pattern=r"^([a-z_]+:[1-9][0-9]*)?$",
            description="For fault tests only: `STAGE:N` kills the process with SIGKILL when it reaches that point of "
            "the flow for the Nth time.",
        ),
    ] = ""

    def __repr__(self) -> str:
        """Secrets are left out, so that a settings value may stand in a log or a traceback."""
        shown = (f"{each.field}={getattr(self, each.field)!r}" for each in describe() if not each.is_secret)
        return f"Settings({', '.join(shown)})"

    @property
    def input_topics(self) -> tuple[str, ...]:
        """The topics that are consumed."""
        return (self.topic_purchases, self.topic_subscriptions, self.topic_usage)

    @property
    def broker(self) -> dict[str, str]:
        """The librdkafka options that say how the brokers are reached."""
        return {"bootstrap.servers": self.kafka_bootstrap, **self.kafka}


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader of the reference learns about one setting; `default` is None when it must be set."""

    field: str
    variable: str
    expected: str
    default: str | None
    description: str
    is_secret: bool


def load(environment: Mapping[str, str]) -> Settings:
    """The settings that the variables and the file they name give.

    Raises ConfigurationError that names the setting, what was sent (unless it may be secret) and what was expected; for
    an unknown name, the nearest known one.
    """
    values = _read_file(environment[_CONFIG]) if environment.get(_CONFIG) else {}
    by_variable = {setting.variable: setting for setting in describe()}
    for variable, sent in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable == _CONFIG or variable.startswith(_NOT_OURS):
            continue
        if variable.startswith(_KAFKA):
            option = variable.removeprefix(_KAFKA).replace("__", ".").lower()
            values["kafka"] = {**values.get("kafka", {}), option: sent}
            continue
        setting = by_variable.get(variable)
        if setting is None or setting.field == "kafka":
            raise ConfigurationError(f"{variable} is no setting{_nearest(variable, by_variable)}")
        values[setting.field] = _converted(setting, variable, sent)
    missing = [setting for setting in describe() if setting.default is None and setting.field not in values]
    if missing:
        raise ConfigurationError(f"{missing[0].variable} is not set, expected {missing[0].expected}")
    settings = Settings(**values)
    _check_together(settings)
    return settings


def describe() -> tuple[Setting, ...]:
    """Every setting, in the order of the reference."""
    hints = get_type_hints(Settings, include_extras=True)
    return tuple(_describe(field, hints[field.name]) for field in msgspec.structs.fields(Settings))


def reference() -> str:
    """The page `docs/reference/settings.md`, made from the settings themselves."""
    lines = [
        "# Settings",
        "",
        "Set them as environment variables, or in a TOML file that `LEDGER_CONFIG` names (the name in small letters,",
        "without `LEDGER_`). A variable wins over the file. A bad value or an unknown name stops the process before it",
        "starts.",
        "",
        "`python -m ledger_worker.cli.reference settings > docs/reference/settings.md` prints this page anew.",
        "",
        "| variable | expected | default | what it does |",
        "|---|---|---|---|",
    ]
    for setting in describe():
        default = "must be set" if setting.default is None else f"`{setting.default}`" if setting.default else "(empty)"
        variable = f"{_KAFKA}*" if setting.field == "kafka" else setting.variable
        lines.append(f"| `{variable}` | {setting.expected} | {default} | {setting.description} |")
    lines += [
        "",
        "Variables that begin with `LEDGER_TEST_` or `LEDGER_LOCAL_` belong to the tests and to the local cluster.",
        "",
    ]
    return "\n".join(lines)


def _read_file(name: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{_CONFIG} names {name}, which cannot be read as TOML: {error}") from error
    by_field = {setting.field: setting for setting in describe()}
    values = {}
    for field, sent in found.items():
        setting = by_field.get(field)
        if setting is None:
            raise ConfigurationError(f"{field} in {name} is no setting{_nearest(field, by_field)}")
        values[field] = _converted(setting, f"{field} in {name}", _as_options(sent) if field == "kafka" else sent)
    return values


def _as_options(table: object) -> object:
    """A TOML table as librdkafka options: nested tables are dotted names, values are text as librdkafka writes it."""
    if not isinstance(table, dict):
        return table
    options: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            nested = _as_options(value)
            options.update({f"{name}.{below}": text for below, text in nested.items()})  # type: ignore[attr-defined]  # a dict, as above
        else:
            options[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return options


def _converted(setting: Setting, name: str, sent: object) -> Any:  # noqa: ANN401 - of the field's own type
    annotation = get_type_hints(Settings, include_extras=True)[setting.field]
    kind = get_args(annotation)[0]
    if isinstance(kind, type) and issubclass(kind, StrEnum) and isinstance(sent, str):
        sent = sent.lower()
    try:
        return msgspec.convert(sent, annotation, strict=False)
    except msgspec.ValidationError:
        shown = "what was sent" if setting.is_secret else repr(sent)[:_SENT_LENGTH_MAX]
        raise ConfigurationError(f"{name} is {shown}, expected {setting.expected}") from None


def _check_together(settings: Settings) -> None:
    topics = {each.field: getattr(settings, each.field) for each in describe() if each.field.startswith("topic_")}
    by_name: dict[str, str] = {}
    for field, topic in topics.items():
        if topic in by_name:
            raise ConfigurationError(
                f"{_variable(field)} and {_variable(by_name[topic])} are both {topic}, expected different topics"
            )
        by_name[topic] = field


def _nearest(name: str, known: Mapping[str, object]) -> str:
    by_rest = {each.removeprefix(PREFIX): each for each in known}
    found = difflib.get_close_matches(name.removeprefix(PREFIX), by_rest, n=1, cutoff=0.6)
    return f"; did you mean {by_rest[found[0]]}?" if found else "; docs/reference/settings.md lists them all"


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _describe(field: msgspec.structs.FieldInfo, annotation: object) -> Setting:
    metas = [meta for meta in get_args(annotation)[1:] if isinstance(meta, Meta)]
    bounds = {name: getattr(meta, name) for meta in metas for name in _BOUNDS if getattr(meta, name) is not None}
    extra = {name: value for meta in metas for name, value in (meta.extra or {}).items()}
    return Setting(
        field=field.name,
        variable=_variable(field.name),
        expected=extra.get("expected") or _expected(get_args(annotation)[0], bounds),
        default=None if field.required else _shown(field),
        description=next(meta.description for meta in metas if meta.description),
        is_secret=extra.get("is_secret", False),
    )


_BOUNDS = ("ge", "gt", "le", "min_length", "pattern")
_PATTERNS = {
    r"^[a-zA-Z0-9._-]{1,249}$": "the name of a topic (1 to 249 of `a-z A-Z 0-9 . _ -`)",
    r"^([a-z_]+:[1-9][0-9]*)?$": "a stage and a number, such as `written:2`, or nothing",
}


def _expected(kind: object, bounds: Mapping[str, Any]) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(f"`{member}`" for member in kind)
    if get_origin(kind) is dict:
        return "options of librdkafka"
    if kind is int:
        return f"a whole number from {bounds['ge']} to {bounds['le']}"
    if kind is float:
        low = f"above {bounds['gt']:g}" if "gt" in bounds else f"from {bounds['ge']:g}"
        return f"seconds, {low} up to {bounds['le']:g}"
    if "pattern" in bounds:
        return _PATTERNS[bounds["pattern"]]
    return "text that is not empty" if "min_length" in bounds else "text"


def _shown(field: msgspec.structs.FieldInfo) -> str:
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "" if default == {} else f"{default:g}" if isinstance(default, float) else str(default)
