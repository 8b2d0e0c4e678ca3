"""The limits under which students' code runs: processor time and the clock, memory, output, no network."""

import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

from .places import environment

SECONDS, MEMORY, OUTPUT = 120, 2 * 1024**3, 1_000_000
CLOCK = 10  # the clock may show so many times the processor's seconds: the machine may be busy, and a cell may sleep
FILE = 64 * 1024**2  # no file that a submission writes is larger


def isolated() -> list[str]:
    """How a command is cut off from the network here: a namespace of its own, or nothing where that is forbidden."""
    own = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        return own if subprocess.run([*own, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


def run(line: list[str], cwd: Path, seconds: float) -> str:
    """Run a command under the limits; returns the limit that stopped it, or an empty string."""

    def limits():
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))

    env = environment() | {"LAB_ASSIGN_GUARD": "" if (cut := isolated()) else "1", "HOME": str(cwd)}
    process = subprocess.Popen(
        [*cut, *line], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limits
    )
    reason = []

    def stop(why):
        reason.append(why)
        kill(process)

    threading.Thread(target=watch, args=(process, seconds, stop), daemon=True).start()
    said = 0
    while chunk := process.stdout.read1(65536):
        said += len(chunk)
        if said > OUTPUT and not reason:
            stop("output, 1 MB")
    status = process.wait()
    kill(process)
    return reason[0] if reason else {3: "output, 1 MB", 4: "memory, 2 GB"}.get(status, "")


def watch(process: subprocess.Popen, seconds: float, stop) -> None:
    """Call `stop` with the reason once a process and all that it started have had their time."""
    import psutil

    began, spent = time.monotonic(), {}
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                spent[one.pid] = sum(one.cpu_times()[:2])
        except psutil.Error:
            pass  # one of them has just ended
        if sum(spent.values()) > seconds:
            return stop(f"processor time, {seconds:g} s")
        if time.monotonic() - began > CLOCK * seconds:
            return stop(f"wall time, {CLOCK * seconds:g} s")
        time.sleep(0.2)


def kill(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
