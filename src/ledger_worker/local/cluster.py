"""A PostgreSQL and a Kafka in one folder: started, stopped, looked at, and killed one by one.

The folder is the cluster: `cluster.json` in it keeps what was chosen at the first start (ports, password, Kafka's
cluster id), so any process can find, use and end what another started, and a restart comes back on the same ports with
the same data. Each call holds the folder's lock, so two starts at once make one cluster.

No database or topic of ours is made here; the store and the worker do that.
"""

import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ledger_worker.errors import ConfigurationError
from ledger_worker.local import daemon, kafka, postgres
from ledger_worker.local.tuning import DURABLE, Tuning

DEFAULT_FOLDER = Path(".ledger-cluster")

_LOCK_SECONDS_MAX = 900.0
_FREE_BYTES_MIN = 512 * 1024 * 1024


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two servers of a folder are reached, and whether they run."""

    folder: Path
    database_url: str
    """`postgresql://` URL of the superuser, into the empty database `postgres`."""
    kafka_bootstrap: str
    postgres_pid: int | None
    """None while it does not run; the same below."""
    kafka_pid: int | None

    postgres_log: Path
    kafka_log: Path

    @property
    def is_running(self) -> bool:
        """Whether both servers run."""
        return self.postgres_pid is not None and self.kafka_pid is not None


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """What `cluster.json` holds."""

    postgres_port: int
    kafka_port: int
    controller_port: int
    password: str
    kafka_cluster_id: str
    tuning: Tuning


def start(folder: Path, tuning: Tuning = DURABLE) -> Cluster:
    """Both servers run. What runs already is left as it is, with the tuning it was started with.

    The first start in a folder takes about three seconds more than a later one, and the first on a machine the time to
    fetch Kafka. When one server cannot start, both are stopped and the error is raised: ConfigurationError for what a
    person must set right, UnavailableError for what took too long.
    """
    folder = folder.absolute()
    _make(folder)
    with daemon.locked(_lock(folder), _LOCK_SECONDS_MAX):
        state = _first_state(tuning) if (known := _read_state(folder)) is None else known
        if state.tuning != tuning and not _look(folder, state).is_running:
            state = msgspec.structs.replace(state, tuning=tuning)
        _write_state(folder, state)
        try:
            with ThreadPoolExecutor(2) as side_by_side:
                # A thread whose start is interrupted goes on, and nobody waits for it: it would start its server later.
                with daemon.interrupts_wait():
                    starting = [side_by_side.submit(each, folder, state) for each in (_start_postgres, _start_kafka)]
                for started in starting:
                    started.result()
        except BaseException:
            _stop(folder)
            raise
        return _look(folder, state)


def stop(folder: Path) -> None:
    """Neither server runs; the data stays. A folder without a cluster is left alone."""
    folder = folder.absolute()
    if _state_file(folder).exists():
        with daemon.locked(_lock(folder), _LOCK_SECONDS_MAX):
            _stop(folder)


def delete(folder: Path) -> None:
    """Neither server runs, and the folder is gone with all data. A folder without a cluster is left alone."""
    folder = folder.absolute()
    if _state_file(folder).exists():
        with daemon.locked(_lock(folder), _LOCK_SECONDS_MAX):
            kafka.kill(folder)
            postgres.kill(folder)
            daemon.remove_folder(folder)


def status(folder: Path) -> Cluster | None:
    """The cluster of that folder as it is now, running or not; None when there is none."""
    folder = folder.absolute()
    state = _read_state(folder)
    return None if state is None else _look(folder, state)


def start_postgres(folder: Path) -> Cluster:
    """PostgreSQL runs again, on its port and with its data."""
    folder = folder.absolute()
    with daemon.locked(_lock(folder), _LOCK_SECONDS_MAX):
        state = _existing_state(folder)
        _start_postgres(folder, state)
        return _look(folder, state)


def start_kafka(folder: Path) -> Cluster:
    """The broker runs again, on its port and with its data."""
    folder = folder.absolute()
    with daemon.locked(_lock(folder), _LOCK_SECONDS_MAX):
        state = _existing_state(folder)
        _start_kafka(folder, state)
        return _look(folder, state)


def kill_postgres(folder: Path) -> None:
    """PostgreSQL and its backends are gone by SIGKILL. For tests of faults."""
    postgres.kill(folder.absolute())


def kill_kafka(folder: Path) -> None:
    """The broker is gone by SIGKILL. For tests of faults.

    What a transaction committed in the last milliseconds before may stay hidden from `read_committed` readers after the
    restart, until the same transactional id ends another transaction on that partition. The commit is answered before
    its markers are written, and a broker that is alone skips the markers it still owes while it is fenced, as it is at
    first ("these partitions are likely deleted already", TransactionMarkerChannelManager of Kafka 4.4).
    """
    kafka.kill(folder.absolute())


def _make(folder: Path) -> None:
    if folder.exists() and not _state_file(folder).exists() and _holds_something_else(folder):
        raise ConfigurationError(f"{folder} holds other files; give a folder for the cluster alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    if (free := shutil.disk_usage(folder).free) < _FREE_BYTES_MIN:
        raise ConfigurationError(
            f"{folder} has {free >> 20} MB free and a cluster needs {_FREE_BYTES_MIN >> 20} MB; "
            "free some, or choose another folder"
        )


def _holds_something_else(folder: Path) -> bool:
    # A start that was interrupted before it chose its ports leaves these two.
    return any(entry.name not in {".gitignore", _lock(folder).name} for entry in folder.iterdir())


def _first_state(tuning: Tuning) -> _State:
    postgres_port, kafka_port, controller_port = daemon.free_ports(3)
    return _State(
        postgres_port=postgres_port,
        kafka_port=kafka_port,
        controller_port=controller_port,
        password=secrets.token_hex(32),
        kafka_cluster_id=kafka.cluster_id(),
        tuning=tuning,
    )


def _start_postgres(folder: Path, state: _State) -> None:
    if postgres.pid(folder) is None:
        _require_free(folder, "PostgreSQL", state.postgres_port)
        postgres.prepare(folder, state.password)
        postgres.start(folder, state.postgres_port, state.tuning)


def _start_kafka(folder: Path, state: _State) -> None:
    if kafka.pid(folder) is None:
        for port in (state.kafka_port, state.controller_port):
            _require_free(folder, "Kafka", port)
        kafka.prepare(folder, state.kafka_cluster_id, state.kafka_port, state.controller_port, state.tuning)
        kafka.start(folder, state.kafka_port, state.controller_port, state.tuning)


def _require_free(folder: Path, name: str, port: int) -> None:
    if not daemon.becomes_free(port):
        raise ConfigurationError(
            f"port {port} of the {name} in {folder} is taken by another program; stop that, or delete the folder"
        )


def _stop(folder: Path) -> None:
    with ThreadPoolExecutor(2) as side_by_side:
        for stopped in [side_by_side.submit(each, folder) for each in (postgres.stop, kafka.stop)]:
            stopped.result()


def _look(folder: Path, state: _State) -> Cluster:
    return Cluster(
        folder=folder,
        database_url=f"postgresql://{postgres.SUPERUSER}:{state.password}@127.0.0.1:{state.postgres_port}/postgres",
        kafka_bootstrap=f"127.0.0.1:{state.kafka_port}",
        postgres_pid=postgres.pid(folder),
        kafka_pid=kafka.pid(folder),
        postgres_log=postgres.log_file(folder),
        kafka_log=kafka.log_file(folder),
    )


def _existing_state(folder: Path) -> _State:
    state = _read_state(folder)
    if state is None:
        raise ConfigurationError(f"there is no local cluster in {folder}; start one first")
    return state


def _read_state(folder: Path) -> _State | None:
    try:
        return msgspec.json.decode(_state_file(folder).read_bytes(), type=_State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{_state_file(folder)} cannot be read ({error}); it belongs to another user or release: delete {folder}"
        ) from error


def _write_state(folder: Path, state: _State) -> None:
    unfinished = _state_file(folder).with_suffix(".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(msgspec.json.encode(state))
    unfinished.rename(_state_file(folder))


def _state_file(folder: Path) -> Path:
    return folder / "cluster.json"


def _lock(folder: Path) -> Path:
    return folder / "lock"
