"""What a person gives and takes by hand, through the command line, on a ledger."""

from getpass import getuser

import psycopg
import pytest

from ledger_worker.domain.events import AssignmentFact, fact_of
from ledger_worker.domain.stretches import grant_id
from tests.cli.conftest import Command

LONG_AGO = "2026-01-01T00:00:00Z"
FOR_EVER = "2999-01-01T00:00:00+01:00"
NOTE = ("--note", "goodwill")


@pytest.fixture
def by_hand(command: Command) -> Command:
    """A catalogue with a quota, `exports`, access to `video`, and a setting, `upload-megabytes`."""
    command("catalog", "apply", "docs/examples/catalogue.toml")
    return command


def remaining(by_hand: Command, customer_id: str = "ada") -> int | None:
    shown = by_hand("customer", "show", customer_id, "--json")
    if shown.status:
        return None
    (exports,) = shown.json["entitlements"]
    return int(exports["remaining"])


def test_what_is_given_is_told_explained_and_proven_like_anything_else(by_hand: Command) -> None:
    given = by_hand(
        "customer", "assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", LONG_AGO, "--actor", "eve", *NOTE
    )

    assert given.status == 0
    said, told = given.output.splitlines()
    assert said == "Assignment a1: applied."
    assert "ada #1  exports: none -> active, allowed, 7 of 7 left  because of EntitlementAssigned by-hand/" in told
    explained = by_hand("customer", "explain", "ada")
    assert "given by hand" in explained.output
    assert "EntitlementAssigned" in explained.output
    assert by_hand("ledger", "verify").status == 0


def test_a_rehearsal_says_the_same_and_touches_nobody(by_hand: Command) -> None:
    command = ("customer", "assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", LONG_AGO, *NOTE, "--json")

    rehearsed = by_hand(*command, "--dry-run")
    assert remaining(by_hand) is None
    done = by_hand(*command)

    assert remaining(by_hand) == 7
    assert rehearsed.json["outcome"] == done.json["outcome"] == "applied"
    pictures = [[(each["before"], each["after"]) for each in ran.json["changes"]] for ran in (rehearsed, done)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 1


def test_instants_of_another_zone_name_the_same_grants(by_hand: Command) -> None:
    acts = (
        ("assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", "2026-01-01T01:00:00+01:00"),
        ("renew", "ada", "a1", "--from", "2026-01-02T01:00:00+01:00", "--until", FOR_EVER),
        ("extend", "ada", "a1", "2999-02-01T00:00:00+01:00"),
        ("revoke", "ada", "a1", "--at", "2026-01-03T01:00:00+01:00"),
    )

    for number, act in enumerate(acts):
        grant_id.cache_clear()  # each command is a process of its own
        assert by_hand("customer", *act, *NOTE).status == 0
        grant_id.cache_clear()
        assert by_hand("ledger", "verify").status == 0, act
        if number == 1:
            assert remaining(by_hand) == 14

    assert remaining(by_hand) == 0


def test_done_again_it_changes_nothing_and_with_other_content_it_corrects(by_hand: Command) -> None:
    command = ("customer", "assign", "ada", "exports", "--id", "a1", "--from", LONG_AGO, *NOTE, "--json", "--units")

    outcomes = [by_hand(*command, units).json["outcome"] for units in (7, 7, 9)]

    assert outcomes == ["applied", "duplicate_fact", "applied"]
    assert remaining(by_hand) == 9


def test_an_assignment_is_renewed_extended_and_revoked(by_hand: Command) -> None:
    by_hand("customer", "assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", LONG_AGO, *NOTE)
    again = ("customer", "renew", "ada", "a1", "--from", "2026-02-01T00:00:00Z", "--units", 3, *NOTE)

    assert by_hand(*again, "--until", "2026-03-01T00:00:00Z").status == 0
    assert remaining(by_hand) == 7
    assert by_hand("customer", "extend", "ada", "a1", FOR_EVER, *NOTE).status == 0
    assert remaining(by_hand) == 10
    assert by_hand("customer", "revoke", "ada", "a1", *NOTE).status == 0
    assert remaining(by_hand) == 0
    assert by_hand("ledger", "verify").status == 0


@pytest.mark.parametrize(("said", "actor"), [((), getuser()), (("--actor", "eve"), "eve")], ids=["login", "said"])
def test_who_did_it_and_why_is_kept(by_hand: Command, database_url: str, said: tuple[str, ...], actor: str) -> None:
    by_hand("customer", "assign", "ada", "exports", "--units", 7, *NOTE, *said)

    with psycopg.connect(database_url) as connection:
        (payload,) = connection.execute("SELECT payload FROM event").fetchone() or ()
    fact = fact_of(payload)
    assert isinstance(fact, AssignmentFact)
    assert (fact.actor, fact.note) == (actor, "goodwill")


@pytest.mark.parametrize(
    "verb", [("renew", "--from", LONG_AGO), ("extend", FOR_EVER), ("revoke",)], ids=["renew", "extend", "revoke"]
)
def test_what_nobody_gave_is_refused_and_not_kept(by_hand: Command, verb: tuple[str, ...]) -> None:
    ran = by_hand("customer", verb[0], "ada", "a9", *verb[1:], *NOTE)

    assert ran.status == 1
    assert ran.errors.startswith("error: waiting: assignment a9 of ada is not known, expected one that was given")
    assert by_hand("customer", "show", "ada").status == 1


def test_what_is_of_another_customer_is_refused(by_hand: Command) -> None:
    by_hand("customer", "assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", LONG_AGO, *NOTE)

    ran = by_hand("customer", "revoke", "bob", "a1", *NOTE)

    assert ran.status == 1
    assert "assignment a1 of bob is of another customer" in ran.errors
    assert remaining(by_hand) == 7


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ada", "unheard-of", "--units", "7"), "unknown_entitlement: entitlement unheard-of is not in the catalogue"),
        (("ada", "video", "--units", "7"), "wrong_type: entitlement video is of type access, expected a quota"),
        (("ada", "exports", "--until", LONG_AGO), "impossible_value: expires_at is 2026-01-01"),
        (("", "exports"), "impossible_value: customer_id has 0 characters"),
        (("ada", "exports", "--priority", "-1"), "impossible_value: priority is -1"),
        (("ada", "exports", "--units", str(2**60)), "impossible_value: units is"),
        (("ada", "exports", "--value", "7"), "wrong_type: entitlement exports: value is set, expected none"),
        (("ada", "video", "--value", "true"), "wrong_type: entitlement video: value is set, expected none"),
        (("ada", "upload-megabytes"), "wrong_type: entitlement upload-megabytes: value is missing, expected the JSON"),
        (
            ("ada", "upload-megabytes", "--value", '"big"'),
            "wrong_type: entitlement upload-megabytes: value is a text, expected a whole number for the merge max",
        ),
        (("ada", "upload-megabytes", "--units", "7"), "wrong_type: entitlement upload-megabytes is of type setting"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(
    by_hand: Command, arguments: tuple[str, ...], expected: str
) -> None:
    ran = by_hand("customer", "assign", *arguments, *NOTE)

    assert ran.status == 1
    assert ran.errors.startswith(f"error: {expected}")
    assert by_hand("customer", "show", "ada").status == 1


def test_a_value_is_given_renewed_shown_explained_and_proven(by_hand: Command) -> None:
    given = by_hand(
        *("customer", "assign", "ada", "upload-megabytes", "--value", " 2048 ", "--id", "a1", "--from", LONG_AGO, *NOTE)
    )
    by_hand("customer", "assign", "ada", "upload-megabytes", "--value", "100", "--id", "a2", "--from", LONG_AGO, *NOTE)
    renewed = by_hand("customer", "renew", "ada", "a2", "--from", LONG_AGO, "--value", "4096", *NOTE)

    assert (given.status, renewed.status) == (0, 0)
    assert "upload-megabytes: none -> active, allowed, value 2048  because of EntitlementAssigned" in given.output
    assert "active -> active, allowed, value 4096" in renewed.output
    shown = by_hand("customer", "show", "ada", "--json")
    assert [each["value"] for each in shown.json["entitlements"]] == ["4096"]
    assert "4096" in by_hand("customer", "show", "ada").output
    explained = by_hand("customer", "explain", "ada").output
    assert "upload-megabytes (Largest upload): allowed, value 4096: the largest of 3 in force" in explained
    (as_json,) = by_hand("customer", "explain", "ada", "--json").json["entitlements"]
    assert sorted(each["verdict"] for each in as_json["grants"]) == ["decides", "yields", "yields"]
    assert sum("its value does not count now" in each["words"] for each in as_json["grants"]) == 2
    assert by_hand("ledger", "verify").status == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "big",
            'is no value of a setting: it is not JSON (Expecting value at character 0), expected such as 25, "gold"',
        ),
        ("2.5", "it has the number 2.5, expected whole numbers only, without a fraction or an exponent"),
    ],
)
@pytest.mark.parametrize(
    "verb", [("assign", "ada", "upload-megabytes"), ("renew", "ada", "a1", "--from", LONG_AGO)], ids=["assign", "renew"]
)
def test_a_value_is_json_with_whole_numbers(by_hand: Command, verb: tuple[str, ...], value: str, expected: str) -> None:
    ran = by_hand("customer", *verb, "--value", value, *NOTE)

    assert ran.status == 2
    words = " ".join(ran.errors.replace("│", " ").split())
    assert expected in words


def test_a_renewal_with_a_value_that_cannot_be_is_refused_and_not_kept(by_hand: Command) -> None:
    by_hand("customer", "assign", "ada", "upload-megabytes", "--value", 7, "--id", "a1", "--from", LONG_AGO, *NOTE)

    ran = by_hand("customer", "renew", "ada", "a1", "--from", LONG_AGO, "--value", "true", *NOTE)

    assert ran.status == 1
    assert ran.errors.startswith("error: contradicted: assignment a1 of ada cannot have such units or such a value")
    assert by_hand("customer", "show", "ada", "--json").json["sequence"] == 1


def test_usage_and_requests_of_a_setting_are_refused(by_hand: Command) -> None:
    by_hand("customer", "assign", "ada", "upload-megabytes", "--value", 7, *NOTE)

    asked = by_hand("customer", "consume", "ada", "upload-megabytes=1", "--json")

    assert asked.status == 1
    assert asked.json["items"][0]["reason"] == "wrong_type"


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        ("2026-01-01T00:00:00", "is without a zone"),
        ("2026-01-01", "2026-01-01T00:00:00Z or"),
        ("tomorrow", "is no instant"),
        ("2026-13-01", "is no instant"),
    ],
)
def test_an_instant_needs_a_zone(by_hand: Command, instant: str, expected: str) -> None:
    ran = by_hand("customer", "assign", "ada", "exports", "--from", instant, *NOTE)

    assert ran.status == 2
    assert expected in " ".join(ran.errors.split())


@pytest.mark.parametrize(
    ("verb", "option"), [(("assign", "ada", "exports"), "--from"), (("revoke", "ada", "a1"), "--at")]
)
def test_what_is_to_be_done_again_needs_its_instant(by_hand: Command, verb: tuple[str, ...], option: str) -> None:
    """The clock's instant would be another one the second time: a correction, and units given once more."""
    ran = by_hand("customer", *verb, "--id", "x1", *NOTE)

    assert ran.status == 2
    assert f"expected {option} INSTANT" in " ".join(ran.errors.split())


def test_done_again_it_gives_no_units_once_more(by_hand: Command) -> None:
    given = ("customer", "assign", "ada", "exports", "--units", 7, "--id", "a1", "--from", LONG_AGO, *NOTE)
    taken = ("customer", "revoke", "ada", "a1", "--id", "r1", "--at", FOR_EVER, *NOTE)
    by_hand(*given)
    by_hand("customer", "consume", "ada", "exports=7")

    outcomes = [by_hand(*each, "--json").json["outcome"] for each in (given, taken, taken)]

    assert outcomes == ["duplicate_fact", "applied", "duplicate_fact"]
    assert by_hand("customer", "consume", "ada", "exports=1").status == 1


@pytest.mark.parametrize("option", ["--id", "--actor"])
def test_an_empty_name_is_refused_and_not_made_up(by_hand: Command, option: str) -> None:
    ran = by_hand("customer", "assign", "ada", "exports", "--from", LONG_AGO, *NOTE, option, "")

    assert ran.status == 1
    assert "has 0 characters" in ran.errors


def test_a_login_without_a_name_has_to_say_who_it_is(by_hand: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)

    ran = by_hand("customer", "assign", "ada", "exports", *NOTE)

    assert ran.status == 2
    assert "expected --actor NAME" in " ".join(ran.errors.split())
