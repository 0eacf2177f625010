"""The page of the documentation that lists every record and field, made from the schemas.

`python -m ledger_worker.wire.schema_reference` prints it; a test refuses a page that says other than the schemas do.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from ledger_worker.wire.schemas import BY_HAND, FAMILY_OF, OUTPUTS, AvroSchema, TopicFamily, full_name, shipped

__all__ = ["schema_reference"]

_INTRODUCTION = """\
# Schemas

Every record, field by field. This page is made from the files in `schemas/`, which are the contract;
`python -m ledger_worker.wire.schema_reference > docs/reference/schemas.md` prints it anew.

Records are Avro. Before the body stands either the head of Avro's single-object encoding (`c3 01` and the eight bytes
of the fingerprint below) or the Confluent one (`00` and the four bytes of the schema's id in the registry, whose
subject is the record's full name). Readers accept both. Instants are microseconds since 1970 in UTC
(`timestamp-micros`). A type with a question mark may be null.

Incoming schemas evolve so that the newest reads all before it (`BACKWARD_TRANSITIVE`), published ones so that every
version reads every other (`FULL_TRANSITIVE`). Lists that may grow are texts: a word that you do not know is no error.
"""

_FAMILY_TITLE = {
    TopicFamily.PURCHASES: "Incoming: purchases",
    TopicFamily.SUBSCRIPTIONS: "Incoming: subscriptions",
    TopicFamily.USAGE: "Incoming: usage",
}

_BY_HAND = """\
What a person does. It is recorded and explained like every event, and the causes of changes name these types; but on a
topic such a record is the dead letter `unknown_type`.
"""


def schema_reference() -> str:
    """The whole page, as Markdown."""
    lines = [_INTRODUCTION]
    for family, title in _FAMILY_TITLE.items():
        lines.append(f"## {title}\n")
        for record_type, its_family in FAMILY_OF.items():
            if its_family is family:
                lines += _record_lines(record_type)
    lines.append(f"## By hand\n\n{_BY_HAND}")
    for record_type in BY_HAND:
        lines += _record_lines(record_type)
    lines.append("## Published\n")
    for record_type in OUTPUTS:
        lines += _record_lines(record_type)
    return "\n".join(lines)


def _record_lines(record_type: str) -> Iterator[str]:
    versions = shipped()[record_type]
    yield f"### {record_type}\n"
    yield f"{versions[-1].schema['doc']}\n"
    yield f"Full name `{full_name(record_type)}`. Fingerprints, as the bytes stand in a frame:"
    yield "; ".join(f"version {version.version} `{version.fingerprint.hex()}`" for version in versions) + ".\n"
    pending = [versions[-1].schema]
    while pending:
        schema = pending.pop(0)
        if schema is not versions[-1].schema:
            yield f"#### {record_type}: {schema['name']}\n"
            yield f"{schema['doc']}\n"
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        for field in schema["fields"]:
            default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
            yield f"| `{field['name']}` | {_type_name(field['type'])} | {default} | {field['doc']} |"
            pending += _nested(field["type"])
        yield ""


def _type_name(schema: Any) -> str:  # noqa: ANN401 - any JSON of a schema
    if isinstance(schema, list):
        return _type_name(schema[1]) + "?"
    if isinstance(schema, str):
        return schema
    if schema["type"] == "array":
        return f"list of {_type_name(schema['items'])}"
    return str(schema["name"] if schema["type"] == "record" else schema.get("logicalType", schema["type"]))


def _nested(schema: Any) -> list[AvroSchema]:  # noqa: ANN401 - any JSON of a schema
    if isinstance(schema, list):
        return _nested(schema[1])
    if isinstance(schema, dict) and schema["type"] == "array":
        return _nested(schema["items"])
    return [schema] if isinstance(schema, dict) and schema["type"] == "record" else []


if __name__ == "__main__":
    sys.stdout.write(schema_reference())
