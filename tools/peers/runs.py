"""Runs a program and says what others took of the machine meanwhile."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import subprocess
import time


@dataclasses.dataclass
class Result:
    out: str
    wall_s: float
    cpu_s: float
    others: float  # share of all processors that other programs, and the host, kept busy


class Failed(Exception):
    """A program that ended with an error, or not in time."""


def machine() -> tuple[float, int]:
    """Seconds that the machine's processors were busy since it started, and how many there are."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, lines[0].split()[1:9])
    cores = sum(line.startswith("cpu") for line in lines) - 1
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), cores


class Others:
    """What others take from now on."""

    def __init__(self) -> None:
        (self.busy, self.cores), self.begin = machine(), time.monotonic()

    def share(self, own_s: float) -> float:
        all_s = (time.monotonic() - self.begin) * self.cores
        return min(1.0, max(0.0, (machine()[0] - self.busy - own_s) / all_s)) if all_s > 0 else 0.0


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: list[str], preload: pathlib.Path | None = None, timeout_s: float = 3600) -> Result:
    """Standard output of a program that must succeed."""
    environment = dict(os.environ, LD_PRELOAD=str(preload)) if preload else None
    others, own, begin = Others(), children_s(), time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired as problem:
        raise Failed(f"{command[0]} took longer than {timeout_s:.0f} s") from problem
    except OSError as problem:
        raise Failed(f"{command[0]}: {problem.strerror}") from problem
    if done.returncode:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-800:]}")
    cpu_s = children_s() - own
    return Result(done.stdout, time.monotonic() - begin, cpu_s, others.share(cpu_s))


def wait_idle(seconds: float, busy_max: float = 0.08) -> None:
    """Returns when the machine has been all but idle for a second, or after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        others = Others()
        time.sleep(1)
        if others.share(0) < busy_max:
            return


def build_clock(folder: pathlib.Path) -> pathlib.Path:
    """The clock of `cpuclock.c` as a library."""
    library, source = folder / "cpuclock.so", pathlib.Path(__file__).with_name("cpuclock.c")
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)])
    return library
