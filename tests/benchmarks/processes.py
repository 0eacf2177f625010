"""CPU time of other processes, from /proc: what each program of a run cost."""

from collections.abc import Mapping

import psutil

__all__ = ["CpuMeter"]


class CpuMeter:
    """Sums the CPU seconds that programs use between `resume` and `pause`, with the children of those in `families`."""

    def __init__(self, programs: Mapping[str, int | None], families: Mapping[str, int | None]) -> None:
        self._programs = programs
        self._families = families
        self._used = dict.fromkeys([*programs, *families], 0.0)
        self._began: dict[str, float] = {}

    def resume(self) -> None:
        """Counts from here."""
        self._began = self._now()

    def pause(self) -> None:
        """Counts until here."""
        for name, seconds in self._now().items():
            self._used[name] += seconds - self._began[name]

    def seconds(self, scale: float) -> dict[str, float]:
        """What was used by each, times `scale`."""
        return {name: used * scale for name, used in self._used.items()}

    def _now(self) -> dict[str, float]:
        now = {name: _cpu(psutil.Process(pid)) for name, pid in self._programs.items() if pid is not None}
        for name, pid in self._families.items():
            if pid is not None:
                family = psutil.Process(pid)
                now[name] = _cpu(family) + sum(_cpu(child) for child in family.children(recursive=True))
        return now


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system
