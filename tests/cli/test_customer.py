from datetime import UTC, datetime, timedelta

import pytest

from ledger_worker.apply.batch import Batch, Delivery
from ledger_worker.apply.catalogues import Catalogues
from ledger_worker.apply.transaction import apply_batch
from ledger_worker.domain.events import EntitlementAssigned, Event, PurchaseCompleted, PurchaseLine, PurchaseTransferred
from ledger_worker.metrics import CollectorRegistry, Metrics, Stages
from ledger_worker.store.database import engine as new_engine
from tests.cli.conftest import Command, apply_examples


@pytest.fixture
def command_with_ada(command: Command, database_url: str) -> Command:
    """Ada has bought a hundred exports."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    apply_examples(database_url, "purchase")
    return command


def test_show_tells_each_entitlement_as_it_stands(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "show", "ada", "--json")

    (exports,) = ran.json["entitlements"]
    assert (ran.status, ran.json["customer_id"], ran.json["sequence"]) == (0, "ada", 1)
    assert (exports["entitlement"], exports["allowed"], exports["remaining"]) == ("exports", True, 100)


def test_people_read_a_table(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "show", "ada")

    assert "ada, change #1" in ran.output
    assert "exports" in ran.output


def test_a_past_has_the_fields_of_the_present_and_both_instants(command_with_ada: Command) -> None:
    now = command_with_ada("customer", "show", "ada", "--json").json

    ran = command_with_ada("customer", "show", "ada", "--known-at", now["recorded_at"], "--json")

    assert ran.status == 0
    assert set(ran.json) == {*now, "as_of", "known_at"}
    assert (ran.json["known_at"], ran.json["sequence"]) == (now["recorded_at"], now["sequence"])
    assert ran.json["entitlements"] == now["entitlements"]


def test_people_read_which_past_it_is(command_with_ada: Command) -> None:
    before_all = ("--as-of", "2026-01-02T00:00:00Z", "--known-at", "2026-01-03T01:00:00+01:00")

    ran = command_with_ada("customer", "show", "ada", *before_all)

    assert ran.status == 0
    assert "ada as of 2026-01-02T00:00:00.000000Z as known at 2026-01-03T00:00:00.000000Z" in ran.output
    assert "exports" not in ran.output


@pytest.mark.parametrize("option", ["--as-of", "--known-at"])
@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_an_instant_that_utc_does_not_have_is_a_wrong_use(command: Command, option: str, instant: str) -> None:
    ran = command("customer", "show", "ada", option, instant)

    assert ran.status == 2
    assert "is outside of the" in ran.errors


@pytest.mark.parametrize("option", ["--as-of", "--known-at"])
def test_an_instant_without_a_zone_is_status_2(command_with_ada: Command, option: str) -> None:
    ran = command_with_ada("customer", "show", "ada", option, "2026-01-02T00:00:00")

    assert ran.status == 2
    assert "is without a zone" in ran.errors


def test_a_customer_nobody_told_us_of_has_no_past(command: Command) -> None:
    ran = command("customer", "show", "nobody", "--as-of", "2026-01-02T00:00:00Z")

    assert (ran.status, ran.errors) == (1, "error: customer nobody is not known to the ledger\n")


def test_a_customer_nobody_told_us_of_is_status_1(command: Command) -> None:
    ran = command("customer", "show", "nobody")

    assert ran.status == 1
    assert ran.errors == "error: customer nobody is not known to the ledger\n"


def test_explain_gives_grants_events_postings_and_what_would_allow_it(
    command_with_ada: Command, database_url: str
) -> None:
    apply_examples(database_url, "refund")

    ran = command_with_ada("customer", "explain", "ada", "--json")

    (exports,) = ran.json["entitlements"]
    (order,) = ran.json["sources"]
    assert ran.status == 0
    assert (exports["decision"]["reason"], exports["grants"][0]["verdict"]) == ("revoked", "revoked")
    assert exports["would_allow"] == ["1 export more", "a purchase that gives it: exports-100, video-monthly"]
    assert [event["event_id"] for event in order["events"]] == ["purchase-1", "refund-1"]
    assert [posting["number"] for posting in ran.json["postings"]] == [2, 1]


def test_people_read_why(command_with_ada: Command, database_url: str) -> None:
    apply_examples(database_url, "refund")

    ran = command_with_ada("customer", "explain", "ada", "--postings", 1)

    assert "exports (Report exports): not allowed: revoked" in ran.output
    assert "What would allow it, each by itself:\n    1 export more\n    a purchase that gives it" in ran.output
    assert "PurchaseRefunded shop/refund-1" in ran.output
    assert "PurchaseCompleted shop/purchase-1" not in ran.output


def test_people_read_what_would_allow_more_than_is_left(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "explain", "ada", "exports", "--units", 103)

    assert "exports (Report exports): allowed" in ran.output
    assert "A request for 103 is refused, exhausted: fewer units than that are left" in ran.output
    assert "    3 exports more\n" in ran.output


def test_people_read_of_whom_it_was_told_and_what_was_given_by_hand(command: Command, database_url: str) -> None:
    """Ada gave Bob the exports that she had bought, and a person gave him ten more."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    now = datetime.now(UTC)
    bought = PurchaseCompleted(order_id="o1", lines=(PurchaseLine(line_id="1", sku="exports-100", quantity=1),))
    given = PurchaseTransferred(order_id="o1", transfer_id="t1", to_customer_id="bob")
    by_hand = EntitlementAssigned(
        assignment_id="a1", entitlement="exports", units=10, effective_at=now, actor="eve", note="for the outage"
    )
    told = (("ada", "bought", 60, bought), ("ada", "given", 30, given), ("bob", "by-hand", 0, by_hand))
    engine = new_engine(database_url)
    deliveries = tuple(
        Delivery(
            event=Event(
                event_source="shop",
                event_id=event_id,
                customer_id=customer_id,
                occurred_at=now - timedelta(minutes=minutes),
                fact=fact,
            )
        )
        for customer_id, event_id, minutes, fact in told
    )
    apply_batch(engine, Batch(deliveries=deliveries), Catalogues(), Stages(Metrics(CollectorRegistry())))
    engine.dispose()

    ran = command("customer", "explain", "bob")

    assert "Transfers tie it to ada." in ran.output
    assert "order/o1, transferred" in ran.output
    assert "given by hand" in ran.output
    assert "because of PurchaseTransferred shop/given, told of ada" in ran.output


def test_an_entitlement_that_the_customer_never_had_is_explained_too(command_with_ada: Command) -> None:
    ran = command_with_ada("customer", "explain", "ada", "video", "--json")

    assert ran.status == 0
    assert ran.json["entitlements"][0]["decision"]["reason"] == "not_entitled"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nobody",), "error: customer nobody is not known to the ledger\n"),
        (("ada", "nonsense"), "error: entitlement nonsense is not in the catalogue\n"),
    ],
    ids=["customer", "entitlement"],
)
def test_what_nobody_knows_is_status_1(command_with_ada: Command, arguments: tuple[str, ...], error: str) -> None:
    ran = command_with_ada("customer", "explain", *arguments)

    assert (ran.status, ran.errors) == (1, error)


def test_history_goes_on_with_the_cursor_of_a_page(command_with_ada: Command, database_url: str) -> None:
    apply_examples(database_url, "refund")

    first = command_with_ada("customer", "history", "ada", "--limit", 1, "--json").json
    second = command_with_ada(
        "customer", "history", "ada", "--limit", 1, "--cursor", first["next_cursor"], "--json"
    ).json

    assert [posting["cause"]["event_id"] for posting in (*first["postings"], *second["postings"])] == [
        "refund-1",
        "purchase-1",
    ]
    assert second["next_cursor"] is None


def test_people_read_the_history_from_its_beginning(command_with_ada: Command, database_url: str) -> None:
    apply_examples(database_url, "refund")

    ran = command_with_ada("customer", "history", "ada", "--oldest-first", "--limit", 1)

    assert ran.status == 0
    assert "because of PurchaseCompleted shop/purchase-1" in ran.output
    assert "100 exports granted from" in ran.output
    assert "refund-1" not in ran.output
    assert "There is more: --cursor 1" in ran.output


def test_people_read_who_did_it_by_hand_and_why(command_with_ada: Command) -> None:
    command_with_ada("customer", "assign", "ada", "exports", "--units", 5, "--actor", "eve", "--note", "for the outage")

    ran = command_with_ada("customer", "history", "ada", "--limit", 1)

    assert ", by eve\n    Note: for the outage\n" in ran.output


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("nobody",), 1, "customer nobody is not known to the ledger"),
        (("ada", "--cursor", "nonsense"), 2, "none that a page had"),
    ],
    ids=["customer", "cursor"],
)
def test_a_history_that_cannot_be_read_says_why(
    command_with_ada: Command, arguments: tuple[str, ...], status: int, error: str
) -> None:
    ran = command_with_ada("customer", "history", *arguments)

    assert ran.status == status
    assert error in ran.errors
