"""What the client hands out of a record, and what it cannot."""

from typing import cast

from confluent_kafka import Message

from ledger_worker.kafka.reading import headers_of


class _NamedInLatin1:
    """Stands for a message with a header whose name is not UTF-8: no client of Python can send one."""

    def headers(self) -> None:
        b"\xe9".decode()


class _WithoutHeaders:
    def headers(self) -> None:
        return None


def test_a_record_whose_header_has_a_name_that_is_not_utf_8_is_read_without_headers() -> None:
    assert headers_of(cast("Message", _NamedInLatin1())) == ()


def test_a_record_without_headers_has_none() -> None:
    assert headers_of(cast("Message", _WithoutHeaders())) == ()
