"""Faults of the machine: a full disk, and a clock that is two hours off. Both need what not every machine has.

The full disk is a small file system in memory (tmpfs), which only root may mount. The clock is turned by a library
that is loaded before libc and adds an offset to the time of day; it needs a C compiler. Namespaces of Linux do not
help there: a time namespace moves the monotonic clock only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.deployment import Deployment, TimedOutError, wait_until
from benchmarks.faults.observe import VICTIM, Observer
from benchmarks.faults.record import Moment, Record
from benchmarks.faults.striking import Fault

#: Bytes of the small disks: a hospital's folder, the coordinator's folder.
HOSPITAL_DISK, CLOUD_DISK = 48 << 20, 192 << 20
_OFF_S = 7200
_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) { const char *text = getenv("CLOCK_OFFSET_S"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, t);
    if (!status && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += offset();
    return status;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
    return status;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


def why_no_small_disk() -> str:
    """Return why a small file system cannot be mounted here, or ""."""
    if os.geteuid() != 0:
        return "only root may mount a small file system"
    with tempfile.TemporaryDirectory() as folder:
        words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode != 0:
            return "this machine lets nobody mount a file system"
        subprocess.run(["umount", folder], check=True)
    return ""


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount an empty file system of so many bytes on a folder, and unmount it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system of a folder to the last byte, and return the file that does."""
    ballast = folder / "ballast"
    handle = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for piece in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while os.write(handle, bytes(piece)):
                    pass
        try:
            os.write(handle, b"x")
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            raise AssertionError(f"{folder} is not full")
    finally:
        os.close(handle)
    return ballast


def fill_hospital(watch: Observer, moment: Moment) -> Record:
    """Fill the disk under a hospital's log and its Flower state for forty seconds."""
    d = watch.deployment
    folder = d.place(VICTIM).folder

    def inject() -> None:
        ballast = fill(folder)
        time.sleep(40)
        ballast.unlink()

    return watch.strike(moment, inject)


def fill_cloud(watch: Observer, moment: Moment) -> Record:
    """Fill the disk under the journal and Flower's database until `run` ends; then free it, and run again."""
    d = watch.deployment
    ballasts: list[Path] = []

    def inject() -> str:
        ballasts.append(fill(d.cloud.root))
        try:
            wait_until(lambda: d.runs[-1].poll() is not None, 180, "the end of `run`")
        except TimedOutError:
            return "`run` waits; "
        said = [line.strip() for line in d.output("run").splitlines() if line.strip()]
        return f"`run` ends: {' '.join(said[-3:])[-300:]}; "

    def restore() -> None:
        ballasts[-1].unlink()
        if d.runs[-1].poll() is not None:
            d.start_run()

    return watch.strike(moment, inject, restore)


def why_no_clock() -> str:
    """Return why the clock cannot be turned for one hospital here, or ""."""
    return "" if shutil.which("cc") else "there is no C compiler for the library that turns the clock"


def _build_shim(folder: Path) -> Path:
    """Compile the library that turns the clock."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def turn_clock(watch: Observer, moment: Moment) -> Record:
    """Let a hospital join with a clock that is two hours ahead; then with the right one."""
    d = watch.deployment
    shim = _build_shim(d.folder)

    def inject() -> str:
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        d.start_agent(VICTIM, None, LD_PRELOAD=str(shim), CLOCK_OFFSET_S=str(_OFF_S))
        try:
            said = wait_until(lambda: _answer(d), 60, "an answer")
        except TimedOutError:
            said = f"the agent says nothing more than: {d.state(VICTIM).get('connection')}"
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        return f"{said}; "

    return watch.strike(moment, inject, lambda: d.start_agent(VICTIM))


def _answer(d: Deployment) -> str:
    """Return what came of joining with a wrong clock, or "" as long as nothing did."""
    state = d.state(VICTIM)
    if state.get("error"):
        return f"its agent says: {state['error']}"
    return "it is taken in all the same" if state.get("connection") == "online" else ""


#: Faults by name, and what returns why they cannot be tried on this machine, or "".
MACHINE_FAULTS = {
    "full-hospital": (Fault("full disk of a hospital, 40 s", fill_hospital), why_no_small_disk),
    "full-cloud": (Fault("full disk of the coordinator", fill_cloud), why_no_small_disk),
    "clock": (Fault("a hospital's clock is two hours ahead", turn_clock), why_no_clock),
}
