"""The one way to run Snakemake, for ./reproduce.sh and for notebooks alike.

    python -m vd.workflow.launch STUDY [WORKFLOW OPTIONS]

A process can be killed at any moment, so nothing here relies on tidying up. A lock on the study's
results is held by Snakemake's process (the Snakefile asks for it) and ends with it, however that
happens; it stands in for Snakemake's own lock, which a kill leaves behind. The file that is locked,
`.running`, says who runs the study, and jobs say there how far they are. Every process ends with
the one that started it: Snakemake with this one, jobs with Snakemake, kernels with their job. What
is left nevertheless is removed by the next process that gets the lock.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from vd import paths
from vd.store import files
from vd.store.parents import POLL, end_with, kill
from vd.workflow import slots

PATIENCE = 5.0  # seconds to wait for a lock; processes whose parent was killed are gone after two
DRY = r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*"
CHATTER = re.compile(  # what Snakemake says that jobs or records say better
    r"Select jobs|Execute \d+ jobs|Finished jobid|\[.* 20\d\d\]$|$"
    r"|\d+ jobs? (has|have) missing provenance|Rules with missing metadata"
    r"|Assuming unrestricted shared filesystem"
    r"|RuleException:$|CalledProcessError in file|Command 'set -euo pipefail;"
)
RUNNING = ".running"
_locks = []  # open files: their locks end with this process


def main() -> None:
    """Say what a study will do, check what can be checked, run it, say where its results are."""
    study, *options = sys.argv[1:] or ["pocket"]
    check_names(study, options)
    check_places(study)
    dry = any(re.fullmatch(DRY, option) for option in options)
    # By default SIGTERM ends Python at once, and `snakemake` could not end Snakemake; 143 is 128 +
    # SIGTERM, as shells say it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _show(f"\n== Study {study}")
    _about(study)
    if not dry:
        _about(study, "--check-data")
    start = time.monotonic()
    try:
        code, said = snakemake(study, options, _show, ["host"] if dry else ["rules", "host"])
    except KeyboardInterrupt:
        _show(f"\nstopped; ./reproduce.sh {study} goes on from here")
        sys.exit(130)
    if said and said[0].startswith("usage:"):  # an option that Snakemake does not know
        sys.exit(f"{said[-1].partition('error: ')[2]}; ./reproduce.sh --help lists options")
    if code < 0:
        how = signal.Signals(-code).name
        sys.exit(f"ended by {how}; ./reproduce.sh {study} goes on from here")
    if code or dry:
        sys.exit(code)
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    _show(f"\n== Done in {minutes} min {seconds} s")
    _about(study, "--where")


def snakemake(
    study: str,
    options: Sequence[str],
    show: Callable[[str], None] | None = None,
    quiet: Sequence[str] = ("rules", "host"),
) -> tuple[int, list[str]]:
    """Run the workflow of a study; returns Snakemake's exit status and what it said, line by line.

    `show` is given every line at once, and the progress of jobs between them. Where this process
    ends or is interrupted, Snakemake and its jobs end.
    """
    # Incomplete files are what a kill leaves, and Snakemake would stop at them. Its triggers other
    # than mtime read notes of one checkout, where records decide (vd/workflow/plan.py). Its default
    # scheduler solves an integer program to choose jobs; greedy is the fast one.
    command = [sys.executable, "-m", "snakemake", "--snakefile", paths.NOTEBOOKS / "Snakefile"]
    command += ["--directory", directory(study), "--nolock", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "--scheduler", "greedy", "--quiet", *quiet]
    # on a cluster its profile says how many jobs there may be, and not this machine
    elsewhere = any(re.match(r"--(executor|profile|workflow-profile)|-e", o) for o in options)
    command += [*([] if elsewhere else [*_limits(), "--cores", "all"]), *options]
    env = os.environ | {"VD_STUDY": study, "VD_LAUNCHER": str(os.getpid()), "PYTHONUTF8": "1"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    said = []
    with subprocess.Popen(command, env=env, encoding="utf-8", errors="replace", **pipe) as process:
        if show:
            threading.Thread(target=_follow, args=(study, process.pid, show), daemon=True).start()
        try:
            for line in map(str.rstrip, process.stdout):
                if not CHATTER.match(line):
                    said.append(line)
                    if show and not said[0].startswith("usage:"):
                        show(line)
        except BaseException:
            # not terminate: on SIGTERM Snakemake waits for the jobs that run
            process.kill()
            raise
    time.sleep(2 * POLL if show else 0)  # until the last progress is shown
    return process.returncode, said


def directory(study: str) -> Path:
    """The folder that Snakemake runs and keeps its notes in: the checkout, or, if nothing can be
    written there, the results."""
    return paths.ROOT if os.access(paths.ROOT, os.W_OK) else paths.results(study)


def hold(study: str) -> None:
    """Have a study's results to oneself until this process ends; SystemExit, in a line, if another
    process has them.

    Called by the Snakefile before jobs are chosen. What killed processes left is removed then: jobs
    that live on, half-written files and the locks of Snakemake.
    """
    # popped, since a workflow that is started further down has another parent
    if launcher := os.environ.pop("VD_LAUNCHER", None):
        end_with(int(launcher))
    check_places(study)
    folder = paths.results(study).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # First the lock: without it, what lies there may belong to a process that works.
    _lock(study, folder / RUNNING)
    _kill_left(str(folder))
    os.environ |= {"VD_WORKFLOW": str(folder), "VD_PROGRESS": str(folder / RUNNING)}  # for jobs
    for place in (folder, paths.figures(study)):
        files.remove_parts(place)
    for lock in Path(".snakemake", "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)


def check_names(study: str, options: Sequence[str]) -> None:
    """SystemExit, in a line, if a path stands in place of a study, or a study among the options."""
    if "/" in study or study.endswith(".yaml"):
        sys.exit(f"{study}: write the name of the study alone, such as {Path(study).stem}")
    for option in options:
        if "/" not in option and paths.config(option).exists():
            sys.exit(f"{study} {option}: one study at a time")


def check_places(study: str) -> None:
    """SystemExit, in a line, if a folder that an environment variable names cannot be used."""
    for variable in ("VD_RESULTS", "VD_FIGURES", "VD_CACHE", "VD_CONFIGS", "VD_DATA_DIR"):
        try:
            wrong = _wrong_with(variable, study)
        except (OSError, RuntimeError) as error:  # such as ~ of a user who does not exist
            wrong = f"{error}"
        if wrong:
            sys.exit(f"{variable}={os.environ.get(variable, '')}: {wrong}")


def _wrong_with(variable: str, study: str) -> str | None:
    if variable in ("VD_CONFIGS", "VD_DATA_DIR"):
        # not set, it means a folder of the checkout, which is there
        there = paths.place(variable).is_dir()
        return None if there else "no such folder; make it or unset the variable"
    of_study = {"VD_RESULTS": paths.results, "VD_FIGURES": paths.figures}.get(variable)
    folder = of_study(study) if of_study else paths.cache()
    # the deepest folder that exists: what is below can be made if this one can be written to
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        return f"{there} is a file; name a folder"
    if variable == "VD_CACHE" and there == folder:
        return None  # a cache that holds everything may be read-only
    if re.search(r"[{}\n]", os.path.relpath(folder, paths.ROOT)):
        return "Snakemake takes braces and line breaks for its own; name another folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to; name another folder"
    return None


def _lock(study: str, file: Path) -> None:
    # mode w would wipe who has the lock, before it is known whether anybody has it
    lock = open(file, "a+", encoding="utf-8")  # noqa: SIM115 # for as long as this process lives
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(POLL)
                continue
            lock.seek(0)
            who = lock.read().strip()
            end = f"wait for it, or end it: kill -9 {''.join(who.split()[1:2])}"
            sys.exit(f"study '{study}' is being run by {who}, in {file.parent}; {end}")
        except OSError as error:  # some network file systems have no locks
            print(f"{file}: {error}; run '{study}' once at a time", file=sys.stderr)
            break
    lock.truncate(0)
    now = time.strftime("%H:%M")
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
    lock.flush()
    _locks.append(lock)


def _kill_left(folder: str) -> None:
    """End jobs of a workflow that ended, by the folder that they inherited from it."""
    mine = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    others = [process for process in psutil.process_iter(["environ"]) if process.pid not in mine]
    # no environment is known of other users' processes
    kill([p for p in others if (p.info["environ"] or {}).get("VD_WORKFLOW") == folder])


def _limits() -> list[str]:
    """As many models at a time on GPUs as there are in sight."""
    gpus = len(slots.in_sight())
    return ["--resources", f"gpu={gpus}"] if gpus else []


def _follow(study: str, pid: int, show: Callable[[str], None]) -> None:
    """Show the progress of jobs once this process has the lock."""
    file = paths.results(study) / RUNNING
    while not file.exists():
        time.sleep(POLL)
    with open(file, encoding="utf-8", errors="replace") as log:
        # An earlier run's file may still be there; this one's begins with its process.
        while not log.readline().startswith(f"process {pid} "):
            time.sleep(POLL)
            log.seek(0)
        while True:
            for line in log:
                show(line.rstrip())
            time.sleep(POLL)


def _show(line: str) -> None:
    print(line, flush=True)


def _about(study: str, *options: str) -> None:
    """What `python -m vd` says of the study; a mistake in it ends this process."""
    command = [sys.executable, "-m", "vd", study, *options]
    if code := subprocess.run(command, cwd=paths.ROOT, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
