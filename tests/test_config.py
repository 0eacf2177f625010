from pathlib import Path

import pytest

from ledger_worker.config import GroupProtocol, LogLevel, Start, load, reference
from ledger_worker.errors import ConfigurationError

URL = {"LEDGER_DATABASE_URL": "postgresql://user:hunter2@host/ledger"}
REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


def test_one_setting_is_enough_to_start() -> None:
    settings = load(URL)

    assert settings.database_url == "postgresql://user:hunter2@host/ledger"
    assert settings.input_topics == ("commerce.purchases", "commerce.subscriptions", "entitlements.usage")


def test_variables_are_read_as_what_they_stand_for() -> None:
    settings = load(
        {
            **URL,
            "LEDGER_START": "latest",
            "LEDGER_GROUP_PROTOCOL": "CLASSIC",
            "LEDGER_BATCH_EVENTS_MAX": "500",
            "LEDGER_LINGER_SECONDS": "0",
            "LEDGER_LOG_LEVEL": "Warning",
        }
    )

    assert settings.start is Start.LATEST
    assert settings.group_protocol is GroupProtocol.CLASSIC
    assert settings.batch_events_max == 500
    assert settings.linger_seconds == 0
    assert settings.log_level is LogLevel.WARNING


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text('database_url = "postgresql://file/ledger"\nconsumer_group = "of the file"\ngrace_seconds = 5\n')

    settings = load({**URL, "LEDGER_CONFIG": str(file)})

    assert settings.database_url == URL["LEDGER_DATABASE_URL"]
    assert (settings.consumer_group, settings.grace_seconds) == ("of the file", 5.0)


def test_options_of_librdkafka_come_from_variables_and_from_a_table(tmp_path: Path) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text(
        '[kafka]\n"sasl.mechanism" = "PLAIN"\nsecurity.protocol = "PLAINTEXT"\nsocket.keepalive.enable = true'
    )

    settings = load({**URL, "LEDGER_CONFIG": str(file), "LEDGER_KAFKA__security__protocol": "SASL_SSL"})

    assert settings.broker == {
        "bootstrap.servers": "localhost:9092",
        "sasl.mechanism": "PLAIN",
        "security.protocol": "SASL_SSL",
        "socket.keepalive.enable": "true",
    }


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "LEDGER_DATABASE_URL is not set, expected `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`"),
        (
            {**URL, "LEDGER_BATCH_EVENTS_MAX": "0"},
            "LEDGER_BATCH_EVENTS_MAX is '0', expected a whole number from 1 to 10000",
        ),
        ({**URL, "LEDGER_BATCH_EVENTS_MAX": "many"}, "LEDGER_BATCH_EVENTS_MAX is 'many', expected a whole number"),
        ({**URL, "LEDGER_START": "first"}, "LEDGER_START is 'first', expected one of `earliest`, `latest`"),
        ({**URL, "LEDGER_LINGER_SECONDS": "nan"}, "LEDGER_LINGER_SECONDS is 'nan', expected seconds, from 0 up to 10"),
        ({**URL, "LEDGER_TOPIC_USAGE": "a b"}, "LEDGER_TOPIC_USAGE is 'a b', expected the name of a topic"),
        (
            {**URL, "LEDGER_LINGER_SECOND": "1"},
            "LEDGER_LINGER_SECOND is no setting; did you mean LEDGER_LINGER_SECONDS?",
        ),
        ({**URL, "LEDGER_XYZ": "1"}, "LEDGER_XYZ is no setting; docs/reference/settings.md lists them all"),
        ({**URL, "LEDGER_KAFKA": "x"}, "LEDGER_KAFKA is no setting"),
        (
            {**URL, "LEDGER_TOPIC_USAGE": "commerce.purchases"},
            "LEDGER_TOPIC_USAGE and LEDGER_TOPIC_PURCHASES are both commerce.purchases, expected different topics",
        ),
    ],
)
def test_a_bad_setting_is_named_with_what_came_and_what_was_expected(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(variables)

    assert message in str(raised.value)


def test_an_unknown_name_in_the_file_is_an_error_with_the_nearest_one(tmp_path: Path) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text("databse_url = 'x'")

    with pytest.raises(ConfigurationError, match=r"databse_url in .* is no setting; did you mean database_url"):
        load({"LEDGER_CONFIG": str(file)})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"LEDGER_CONFIG names .*missing\.toml, which cannot be read as TOML"):
        load({**URL, "LEDGER_CONFIG": str(tmp_path / "missing.toml")})


def test_variables_of_the_tests_and_of_the_local_cluster_are_left_alone() -> None:
    assert load({**URL, "LEDGER_TEST_DOCKER": "1", "LEDGER_LOCAL_CACHE": "x", "PATH": "/bin"}) == load(URL)


def test_no_secret_is_shown() -> None:
    settings = load(
        {**URL, "LEDGER_KAFKA__sasl__password": "hunter2", "LEDGER_SCHEMA_REGISTRY_URL": "http://k:hunter2@h"}
    )

    assert "hunter2" not in repr(settings)
    assert "consumer_group='entitlement-ledger'" in repr(settings)


def test_the_reference_is_the_one_that_the_settings_give() -> None:
    made = reference()

    assert REFERENCE.read_text(encoding="utf-8") == made, (
        f"write it anew: python -m ledger_worker.cli.reference settings > {REFERENCE.name}"
    )
