"""What every test may stand on: real servers, a database and topics of its own, and Hypothesis's profiles.

Where the servers come from, and the settings for it, is told in `tests/shared_cluster.py`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import settings

from ledger_worker.domain import course
from ledger_worker.local import cluster as local_cluster
from ledger_worker.local.cluster import Cluster
from tests import shared_cluster
from tests.shared_cluster import Endpoints, drop_database, make_database

_RUN = pytest.StashKey[ExitStack]()
_TOPIC_SECONDS_MAX = 30.0

# Lives are short in tests: with the figure of the service, few would ever have a day state.
course.STATE_USAGE_MIN = 1

# `print_blob`: a failure prints what repeats it. No deadline: the machine may be busy with two servers.
settings.register_profile("default", print_blob=True, deadline=None)
# In CI the same examples on every run: a change is judged by its own failures, and the campaigns look for new ones.
settings.register_profile("ci", print_blob=True, deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        stack.enter_context(shared_cluster.run())
        config.stash[_RUN] = stack


def pytest_unconfigure(config: pytest.Config) -> None:
    if (stack := config.stash.get(_RUN, None)) is not None:
        stack.close()


@pytest.fixture(scope="session")
def cluster() -> Endpoints:
    """The PostgreSQL and Kafka that the whole run shares: make databases and topics of your own, kill nothing."""
    return shared_cluster.shared()


@pytest.fixture(scope="module")
def private_cluster() -> Iterator[Cluster]:
    """A cluster that this module has for itself and may kill; what it kills it starts again. Takes three seconds."""
    started = shared_cluster.start_private(f"private-{uuid4().hex[:8]}")
    yield started
    local_cluster.delete(started.folder)


@pytest.fixture(scope="session")
def migrated_template(cluster: Endpoints) -> Iterator[str]:
    """The name of a database with the current schema and no rows, to be copied and never connected to."""
    from ledger_worker.store.database import migrate

    name = f"test_template_{uuid4().hex[:12]}"
    migrate(make_database(cluster, name))
    yield name
    drop_database(cluster, name)


@pytest.fixture
def database_url(cluster: Endpoints, migrated_template: str) -> Iterator[str]:
    """A database of this test's own with the current schema and no rows; gone after the test."""
    name = f"test_{uuid4().hex[:12]}"
    yield make_database(cluster, name, template=migrated_template)
    drop_database(cluster, name)


@pytest.fixture
def empty_database_url(cluster: Endpoints) -> Iterator[str]:
    """A database of this test's own with nothing in it; gone after the test."""
    name = f"test_{uuid4().hex[:12]}"
    yield make_database(cluster, name)
    drop_database(cluster, name)


@pytest.fixture
def topic_prefix(cluster: Endpoints) -> Iterator[str]:
    """What the names of this test's topics begin with; topics that do are deleted after the test."""
    prefix = f"test-{uuid4().hex[:12]}."
    yield prefix
    admin = AdminClient({"bootstrap.servers": cluster.kafka_bootstrap})
    made = [name for name in admin.list_topics(timeout=_TOPIC_SECONDS_MAX).topics if name.startswith(prefix)]
    if made:
        for deleted in admin.delete_topics(made).values():
            deleted.result(_TOPIC_SECONDS_MAX)
