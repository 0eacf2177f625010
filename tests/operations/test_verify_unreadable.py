"""A row that cannot be read is named, what follows from it is left out, and all the rest is proven."""

import pytest
from sqlalchemy import Engine

from ledger_worker.operations.verify import Check, verify
from tests.operations.test_verify import (
    OFFERS,
    TOLD,
    prepare,
    tamper,
    tell,
    verdict,
)

# The byte C1 begins nothing in msgpack, and UTF-8 has no FF: `set_byte` puts it where the text of a field begins.


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """The facts of TOLD, all applied at once."""
    prepare(engine, OFFERS)
    tell(engine, TOLD, 0)
    return engine


def require_found_alone(engine: Engine, check: Check, customer_id: str | None, row: str) -> None:
    found = verdict(engine).findings

    assert [(one.check, one.customer_id) for one in found] == [(check, customer_id)], found
    assert found[0].row.startswith(row), found
    assert "cannot be read" in found[0].message, found


UNREADABLE = {
    "what an account carries is no msgpack": (
        "UPDATE account SET carried = '\\xc1' WHERE customer_id = 'ada'",
        Check.SETTLEMENT,
        "ada",
        "account api",
    ),
    "what an account carries is something else": (
        r"UPDATE account SET carried = '\x81a46f77656401' WHERE customer_id = 'ada'",
        Check.SETTLEMENT,
        "ada",
        "account api",
    ),
    "a source's state": (
        "UPDATE source SET state = '\\xc1' WHERE customer_id = 'ada'",
        Check.SOURCE,
        "ada",
        "source order/o1",
    ),
    "a text of a source's state": (
        """
        UPDATE source SET state = set_byte(state, position('claimant'::bytea IN state) + 8, 255)
        WHERE customer_id = 'ada'
        """,
        Check.SOURCE,
        "ada",
        "source order/o1",
    ),
    "the terms of a grant": (
        "UPDATE \"grant\" SET terms = '\\xc1' WHERE customer_id = 'ada'",
        Check.TERMS,
        "ada",
        "grant ",
    ),
    "a text of the terms of a grant": (
        """
        UPDATE "grant" SET terms = set_byte(terms, position('sku'::bytea IN terms) + 3, 255)
        WHERE customer_id = 'ada'
        """,
        Check.TERMS,
        "ada",
        "grant ",
    ),
    "the terms of an entry": (
        "UPDATE entry SET terms = '[]' WHERE customer_id = 'ada' AND posting = 5 AND terms IS NOT NULL",
        Check.ENTRY,
        "ada",
        "entry 5/",
    ),
    "an event of usage": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'first'",
        Check.EVENT,
        "ada",
        "event first of shop",
    ),
    "a text of an event of usage": (
        """
        UPDATE event SET payload = set_byte(payload, position('entitlement'::bytea IN payload) + 11, 255)
        WHERE event_id = 'first'
        """,
        Check.EVENT,
        "ada",
        "event first of shop",
    ),
    "an event about a source": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'bought'",
        Check.EVENT,
        "ada",
        "event bought of shop",
    ),
    "an event that waits": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'went-on'",
        Check.EVENT,
        "bob",
        "event went-on of shop",
    ),
}


@pytest.mark.parametrize(("statement", "check", "customer_id", "row"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_row_that_cannot_be_read_is_the_one_finding(
    database_url: str, ledger: Engine, statement: str, check: Check, customer_id: str, row: str
) -> None:
    tamper(database_url, statement)

    require_found_alone(ledger, check, customer_id, row)


UNREADABLE_OF_TIED = {
    "a transfer": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'given'",
        Check.EVENT,
        "cy",
        "event given of shop",
    ),
    "a refund of what was received": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'dee-refunded'",
        Check.EVENT,
        "dee",
        "event dee-refunded of shop",
    ),
    "a reversal": (
        "UPDATE event SET payload = '\\xc1' WHERE event_id = 'taken-back'",
        Check.EVENT,
        "eve",
        "event taken-back of shop",
    ),
    "something that fell due": (
        """
        UPDATE event SET payload = '\\xc1'
        WHERE event_key = (
            SELECT event_key FROM event WHERE customer_id = 'eve' AND type = 'TransitionsDue'
            ORDER BY recorded_at LIMIT 1
        )
        """,
        Check.EVENT,
        "eve",
        "event ",
    ),
    "what an account waits for": (
        "UPDATE account SET carried = '\\xc1' WHERE customer_id = 'gil'",
        Check.SETTLEMENT,
        "gil",
        "account api",
    ),
    "a text of what an account carries": (
        """
        UPDATE account SET carried = set_byte(carried, position('waiting'::bytea IN carried) + 9, 255)
        WHERE customer_id = 'gil'
        """,
        Check.SETTLEMENT,
        "gil",
        "account api",
    ),
    "a child's terms": (
        "UPDATE \"grant\" SET terms = '\\xc1' WHERE customer_id = 'dee'",
        Check.TERMS,
        "dee",
        "grant ",
    ),
    "the terms of a child by roll-over": (
        "UPDATE \"grant\" SET terms = '\\xc1' WHERE customer_id = 'eve' AND granted = 20",
        Check.TERMS,
        "eve",
        "grant ",
    ),
    "the state of a source that moved": (
        "UPDATE source SET state = '\\xc1' WHERE source_key = 'subscription/s3'",
        Check.SOURCE,
        "hal",
        "source subscription/s3",
    ),
}


@pytest.mark.parametrize(
    ("statement", "check", "customer_id", "row"), UNREADABLE_OF_TIED.values(), ids=UNREADABLE_OF_TIED
)
def test_a_row_of_tied_customers_that_cannot_be_read_is_the_one_finding(
    database_url: str, tied: Engine, statement: str, check: Check, customer_id: str, row: str
) -> None:
    tamper(database_url, statement)

    require_found_alone(tied, check, customer_id, row)


@pytest.mark.parametrize("event_id", ["kay-became-lou", "once-more", "lou-became-max", "kay-used-on"])
def test_an_event_of_merged_customers_that_cannot_be_read_is_the_one_finding(
    database_url: str, merged: Engine, event_id: str
) -> None:
    tamper(database_url, "UPDATE event SET payload = '\\xc1' WHERE event_id = 'THIS'".replace("THIS", event_id))

    require_found_alone(merged, Check.EVENT, event_id.partition("-")[0].replace("once", "kay"), f"event {event_id}")


UNREADABLE_CATALOGUE = {
    "an entitlement": ("UPDATE entitlement SET definition = '{}' WHERE key = 'api'", "entitlement api version 1"),
    "a type of entitlement": (
        "UPDATE entitlement SET definition = jsonb_set(definition, '{type}', '\"magic\"') WHERE key = 'video'",
        "entitlement video version 1",
    ),
    "an offer": ("UPDATE offer SET definition = '[]' WHERE sku = 'PLAN'", "offer PLAN version 1"),
    "the row of the ledger": ("DELETE FROM ledger", "ledger"),
}


@pytest.mark.parametrize(("statement", "row"), UNREADABLE_CATALOGUE.values(), ids=UNREADABLE_CATALOGUE)
def test_without_a_catalogue_what_needs_none_is_proven(
    database_url: str, ledger: Engine, statement: str, row: str
) -> None:
    tamper(database_url, statement)

    [first] = verdict(ledger).findings

    assert (first.check, first.customer_id, first.row) == (Check.CATALOGUE, None, row)
    assert "settlement are not proven" in first.message
    looked_at = {result.check for result in verdict(ledger).checks if result.looked_at}
    assert looked_at == set(Check) - {Check.SOURCE, Check.SETTLEMENT, Check.CHECK_PATH, Check.DAY_STATE, Check.ANSWER}


@pytest.mark.parametrize("statement", [one[0] for one in UNREADABLE_CATALOGUE.values()], ids=UNREADABLE_CATALOGUE)
def test_without_a_catalogue_other_rows_are_named_all_the_same(
    database_url: str, ledger: Engine, statement: str
) -> None:
    tamper(database_url, statement)
    tamper(database_url, "UPDATE customer SET chain_head = sha256('') WHERE customer_id = 'bob'")
    tamper(database_url, "UPDATE account SET usage = usage + 1, overage = overage + 1 WHERE customer_id = 'ada'")

    found = [(one.check, one.customer_id, one.row) for one in verdict(ledger).findings[1:]]

    assert found == [
        (Check.UNITS, "ada", "account api"),
        (Check.CUSTOMER, "bob", "customer"),
    ]


def test_the_counters_of_an_account_that_cannot_be_read_are_proven(database_url: str, ledger: Engine) -> None:
    tamper(
        database_url,
        "UPDATE account SET carried = '\\xc1', usage = usage + 1, overage = overage + 1 WHERE customer_id = 'ada'",
    )

    found = {(one.check, one.row) for one in verdict(ledger).findings}

    assert found == {(Check.SETTLEMENT, "account api"), (Check.UNITS, "account api")}


def test_customers_beside_one_whose_rows_cannot_be_read_are_proven(database_url: str, ledger: Engine) -> None:
    tamper(database_url, "UPDATE source SET state = '\\xc1' WHERE customer_id = 'ada'")
    tamper(database_url, "UPDATE account SET level = 42 WHERE customer_id = 'bob' AND entitlement = 'api'")

    found = [(one.check, one.customer_id, one.row) for one in verdict(ledger).findings]

    assert found == [(Check.SOURCE, "ada", "source order/o1"), (Check.CHECK_PATH, "bob", "account api")]


def test_a_computation_that_wrong_rows_make_impossible_ends_one_proof_alone(
    database_url: str, ledger: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a changed row leads to is open; that it ends in an error is staged."""

    def fails(*_: object) -> None:
        raise OverflowError("too large")

    with monkeypatch.context() as staged, ledger.connect() as connection:
        staged.setattr("ledger_worker.operations.proof.group.check_terms", fails)
        with pytest.raises(OverflowError):
            verify(connection)
    tamper(database_url, "UPDATE event SET units = 40 WHERE event_id = 'first'")
    with monkeypatch.context() as staged:
        staged.setattr("ledger_worker.operations.proof.group.check_terms", fails)
        with pytest.raises(OverflowError):
            verdict(ledger)
        found = verdict(ledger, "ada").findings

    assert [(one.check, one.customer_id) for one in found] == [(Check.EVENT, "ada"), (Check.CUSTOMER, "ada")]
    assert "its proof ends here" in found[1].message


MORE_THAN_IS_READ = {
    "the terms of an entry": (
        """
        UPDATE entry SET terms = terms || '{"unknown": 1}'
        WHERE customer_id = 'ada' AND posting = 1 AND terms IS NOT NULL
        """,
        Check.ENTRY,
        "entry 1/",
    ),
    "a part of the terms of an entry": (
        """
        UPDATE entry SET terms = jsonb_set(terms, '{cuts,0,unknown}', '1')
        WHERE customer_id = 'ada' AND posting = 5 AND terms IS NOT NULL
        """,
        Check.ENTRY,
        "entry 5/",
    ),
    "the terms of a grant": (
        """
        UPDATE "grant" SET terms = set_byte(terms, 2, get_byte(terms, 2) + 1) || '\\xa7756e6b6e6f776e01'
        WHERE customer_id = 'ada'
        """,
        Check.TERMS,
        "grant ",
    ),
    "what an account carries": (
        """
        UPDATE account SET carried = set_byte(carried, 0, get_byte(carried, 0) + 1) || '\\xa7756e6b6e6f776e01'
        WHERE customer_id = 'ada'
        """,
        Check.SETTLEMENT,
        "account api",
    ),
}


@pytest.mark.parametrize(("statement", "check", "row"), MORE_THAN_IS_READ.values(), ids=MORE_THAN_IS_READ)
def test_a_row_that_says_more_than_is_read_of_it_is_named(
    database_url: str, ledger: Engine, statement: str, check: Check, row: str
) -> None:
    tamper(database_url, statement)

    found = verdict(ledger).findings

    assert [(one.check, one.customer_id) for one in found] == [(check, "ada")], found
    assert found[0].row.startswith(row), found
    assert "more than" in found[0].message, found
