"""How fast one core turns bytes into events and values into bytes, beside what fastavro alone takes.

`python tests/benchmarks/decode.py` prints a table; the best of five rounds counts. Nothing here is a test.
"""

import sys
import timeit
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import fastavro
from fastavro.schema import parse_schema

sys.path.insert(0, str(Path(__file__).parents[2]))

from ledger_worker.wire.codec import without_logical_types
from ledger_worker.wire.decode import decode, decode_change, decode_customer_state
from ledger_worker.wire.encode import encode_change, encode_customer_state, encode_event
from ledger_worker.wire.json_form import event_of_json, record_of_json
from ledger_worker.wire.schemas import FAMILY_OF, newest
from tests.wire.values import example

_ROUNDS = 5
_TIMES = 20_000


def main() -> None:
    """Prints a line for each way of reading and writing each record."""
    for record_type, family in FAMILY_OF.items():
        value = record_of_json(example(record_type))
        event = event_of_json(example(record_type))
        schema = newest(record_type).schema
        logical, plain = parse_schema(schema), parse_schema(without_logical_types(schema))
        _line(f"{record_type}: bytes to a checked event", partial(decode, family, value))
        _line("    fastavro, plain types, to a dict", partial(_fastavro, value, plain))
        _line("    fastavro, logical types, to a dict", partial(_fastavro, value, logical))
        _line("    event to bytes", partial(encode_event, event))
    change = record_of_json(example("EntitlementChanged"))
    picture = record_of_json(example("CustomerState"))
    told, shown = decode_change(change), decode_customer_state(picture)
    _line("EntitlementChanged: bytes to a change", partial(decode_change, change))
    _line("    change to bytes", partial(encode_change, told))
    _line("CustomerState of three entitlements: bytes to a picture", partial(decode_customer_state, picture))
    _line("    picture to bytes", partial(encode_customer_state, shown))


def _fastavro(value: bytes, schema: fastavro.types.Schema) -> object:
    return fastavro.schemaless_reader(BytesIO(value[10:]), schema, None)


def _line(name: str, act: Callable[[], object]) -> None:
    seconds = min(timeit.repeat(act, number=_TIMES, repeat=_ROUNDS)) / _TIMES
    print(f"{name:<60}{seconds * 1e6:8.2f} us{1 / seconds:12,.0f} a second")


if __name__ == "__main__":
    main()
