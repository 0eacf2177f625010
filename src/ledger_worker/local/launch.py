"""Runs one program detached, or as an ordinary user when we are root. A script of its own, standard library only.

`python launch.py [--detach] [--ordinary-user] -- PROGRAM ARGUMENT...`

Why not `subprocess` alone:

* `--detach` forks once more, so that the program is a child of init: it outlives us and the terminal, and its death is
  not ours to collect. The new pid is printed, and the call returns.
* `--ordinary-user` is for PostgreSQL, which refuses to run as root. Containers and CI are root most of the time, and
  their folders are often closed to everyone else. So we become `nobody`, and on Linux keep two ambient capabilities
  that let it enter those folders; nothing is opened with chmod. Where the kernel does not grant them we go on without.

Nothing of the package may be imported here: it runs with `python -I -S`, which starts in 15 ms.
"""

import ctypes
import os
import pwd
import sys

ORDINARY_USER = "nobody"

# linux/prctl.h and linux/capability.h
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


def main(arguments: list[str]) -> None:
    """This process has become the program; with `--detach` a child of init has, and its pid is on standard output."""
    end = arguments.index("--")
    options, program = arguments[:end], arguments[end + 1 :]
    if "--detach" in options:
        _go_on_in_a_child_of_init()
    if "--ordinary-user" in options and os.geteuid() == 0:
        _become_ordinary_user()
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted; argv comes from this room


def _go_on_in_a_child_of_init() -> None:
    child = os.fork()
    if child:
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    # Standard output so far was the pipe for the pid; standard error is the log.
    os.dup2(2, 1)


def _become_ordinary_user() -> None:
    user = pwd.getpwnam(ORDINARY_USER)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        library.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if sys.platform == "linux":
        _keep_capabilities(library, (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH))


def _keep_capabilities(library: ctypes.CDLL, capabilities: tuple[int, ...]) -> None:
    mask = sum(1 << capability for capability in capabilities)
    # struct __user_cap_header_struct {version, pid}, then two of struct __user_cap_data_struct {effective, permitted,
    # inheritable}; the second holds capabilities 32 and up.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if library.capset(header, sets) == 0:
        for capability in capabilities:
            library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
