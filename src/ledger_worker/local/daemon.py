"""Programs that outlive us: started detached, found again by pid and mark, and ended for certain.

A pid alone proves nothing after a reboot or a day of work, because the system hands it out again. So each daemon has a
mark: a path that only its command line names. A pid whose command line lacks the mark is somebody else's, and is left
alone.
"""

import fcntl
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ledger_worker.errors import ConfigurationError, UnavailableError
from ledger_worker.local import launch

if TYPE_CHECKING:
    import psutil

_POLL_SECONDS = 0.01
_LAUNCH_SECONDS_MAX = 30.0
_KILL_SECONDS_MAX = 30.0
_REMOVE_SECONDS_MAX = 10.0
_LOG_BYTES_MAX = 1_000_000
# Below the range from which systems pick the near end of outgoing connections. A port from that range may be taken
# while its server is down, even by a client that tries to connect to it and so meets itself.
_PORT_MIN, _PORT_MAX = 20_000, 32_000
_PORT_TRIES_MAX = 200
# A process that looks dead already may have threads that are still dying, and hold its ports.
_PORT_RELEASE_SECONDS_MAX = 3.0


@contextmanager
def locked(path: Path, wait_seconds: float) -> Iterator[None]:
    """This process alone holds the lock file for the time of the block; the system drops it when we die.

    Raises UnavailableError when another process keeps it for longer than `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if not _comes_true_within(lambda: _locks(file.fileno()), wait_seconds):
            raise UnavailableError(f"another process has held {path} for {wait_seconds:.0f} seconds")
        yield


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """A signal that asks this process to end is handled when the block is over, not within it.

    Python handles signals in the main thread only, so a block in another one is never interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, _frame: object) -> None:
        """The signal waits for the end of the block."""
        waiting.append(number)

    before = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon that was just launched, and may not be ready yet."""

    pid: int
    log: Path
    log_start: int
    """How long the log was before: what comes after is this run's."""

    def said(self) -> bytes:
        """What this run has logged so far."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read(_LOG_BYTES_MAX)


def start_detached(program: Sequence[str], *, log: Path) -> Started:
    """The program runs on its own, its output appended to `log`."""
    return _start(["--detach"], program, log)


def start_detached_as_ordinary_user(program: Sequence[str], *, log: Path) -> Started:
    """As `start_detached`, and not as root: when we are, the program runs as `ordinary_user_id()`."""
    return _start(["--detach", "--ordinary-user"], program, log)


def run_as_ordinary_user(program: Sequence[str], *, log: Path, seconds_max: float) -> int:
    """The program has ended and the answer is its exit code; its output is appended to `log`."""
    with log.open("ab") as output:
        ended = subprocess.run(
            _launcher(["--ordinary-user"], program), stdout=output, stderr=output, timeout=seconds_max, check=False
        )
    return ended.returncode


def ordinary_user_id() -> int:
    """The user whom `..._as_ordinary_user` programs run as, who must own their data: ourselves, unless we are root."""
    if os.geteuid() != 0:
        return os.geteuid()
    try:
        return pwd.getpwnam(launch.ORDINARY_USER).pw_uid
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL does not run as root and this system has no user {launch.ORDINARY_USER!r} to run it as; "
            "use another user"
        ) from None


def is_running(pid: int | None, mark: str) -> bool:
    """Whether that pid is alive and is the daemon with that mark. A zombie is dead."""
    import psutil

    if pid is None:
        return False
    try:
        found = psutil.Process(pid)
        return found.status() != psutil.STATUS_ZOMBIE and any(mark in part for part in found.cmdline())
    except psutil.Error:
        return False


def wait_until(is_ready: Callable[[], bool], started: Started, mark: str, *, name: str, seconds_max: float) -> None:
    """The daemon is ready. Raises ConfigurationError when it ended instead, UnavailableError when it takes too long."""
    deadline = time.monotonic() + seconds_max
    while not is_ready():
        if _has_ended(started, mark):
            raise ConfigurationError(why_it_ended(name, started.log, started.log_start))
        if time.monotonic() > deadline:
            raise UnavailableError(f"{name} was not ready after {seconds_max:.0f} seconds; its log is {started.log}")
        time.sleep(_POLL_SECONDS)


def end(pid: int | None, mark: str, *, signal_number: int, seconds_max: float) -> None:
    """The daemon is gone: asked by the signal, and killed when it takes longer than `seconds_max`."""
    if pid is None or not is_running(pid, mark):
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)
    if not _comes_true_within(lambda: not is_running(pid, mark), seconds_max):
        kill(pid, mark)


def kill(pid: int | None, mark: str) -> None:
    """The daemon and its children are gone, by SIGKILL: no shutdown, no flush, as after a crash."""
    import psutil

    if pid is None or not is_running(pid, mark):
        return
    family = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    if not _comes_true_within(lambda: all(_is_dead(member) for member in family), _KILL_SECONDS_MAX):
        raise UnavailableError(f"process {pid} or a child of it does not end, although it was killed")


def wait_for_orphans(folder: Path) -> None:
    """No process has that folder as its working directory any more, as the children of a killed server do for a moment.

    Raises UnavailableError when one stays.
    """
    import psutil

    def is_deserted() -> bool:
        """Whether nobody works in the folder."""
        # A zombie has no working directory, and somebody else's process tells us None: neither is a child of ours.
        return all(other.info["cwd"] != str(folder) for other in psutil.process_iter(["cwd"]))

    if not _comes_true_within(is_deserted, _KILL_SECONDS_MAX):
        raise UnavailableError(f"processes of a server that was killed still work in {folder}")


def remove_folder(folder: Path) -> None:
    """The folder is gone with all that is in it, although a program that is just ending may write into it once more.

    Raises the OSError of the last try when it cannot be removed.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS_MAX
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


def why_it_ended(name: str, log: Path, log_start: int) -> str:
    """One sentence on what a program said last, from the part of its log that begins at byte `log_start`."""
    lines = Started(pid=0, log=log, log_start=log_start).said().decode(errors="replace").splitlines()
    if any("No space left on device" in line for line in lines):
        return f"{name} ended while starting because no space is left for {log.parent}; free some and start again"
    said = [line.strip() for line in lines if any(word in line for word in ("FATAL", "ERROR", "Exception", "rror:"))]
    last = said[0] if said else next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{name} ended while starting: {last[:300]}; the whole log is {log}"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, outside the range for outgoing connections."""
    ports: list[int] = []
    for _ in range(_PORT_TRIES_MAX):
        port = random.randrange(_PORT_MIN, _PORT_MAX)  # noqa: S311 - not a secret: only so that two starts rarely meet
        if port not in ports and _is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise ConfigurationError(f"no free port found on 127.0.0.1 between {_PORT_MIN} and {_PORT_MAX}")


def becomes_free(port: int) -> bool:
    """Whether a server can listen on that port of 127.0.0.1, at once or when a killed one has let go of it."""
    return _comes_true_within(lambda: _is_free(port), _PORT_RELEASE_SECONDS_MAX)


def _has_ended(started: Started, mark: str) -> bool:
    """Whether a daemon that was just launched is gone. Without a command line it is only becoming its program."""
    import psutil

    try:
        command_line = psutil.Process(started.pid).cmdline()
    except psutil.Error:
        return True
    return bool(command_line) and not any(mark in part for part in command_line)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of a server that just ended linger, and do not hinder the next one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(options: Sequence[str], program: Sequence[str], log: Path) -> Started:
    log_start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        launched = subprocess.run(
            _launcher(options, program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            timeout=_LAUNCH_SECONDS_MAX,
            check=True,
        )
    return Started(pid=int(launched.stdout), log=log, log_start=log_start)


def _launcher(options: Sequence[str], program: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", launch.__file__, *options, "--", *program]


def _is_dead(found: "psutil.Process") -> bool:
    import psutil

    try:
        # Not `psutil.wait_procs`: it waits until whoever adopted a zombie has collected it, which can take seconds.
        return not found.is_running() or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _comes_true_within(is_true: Callable[[], bool], seconds_max: float) -> bool:
    deadline = time.monotonic() + seconds_max
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
