"""A Slurm cluster of one node on this machine, for tests: Debian's slurm-wlm and munge, as root."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge")
CONF = Path("/etc/slurm/slurm.conf")  # where a step on a node looks, whatever SLURM_CONF says
TEXT = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no cluster here; nothing if there can."""
    if os.geteuid():
        return "daemons of Slurm are started as root"
    if shutil.which("slurmctld") and shutil.which("munged"):
        return None
    if not shutil.which("apt-get"):
        return "no apt-get to install slurm-wlm with"
    quiet = {"check": False, "capture_output": True}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    install = ["apt-get", "install", "-y", "-qq", *PACKAGES]
    done = subprocess.run(install, **quiet, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    return None if done.returncode == 0 else "slurm-wlm cannot be installed"


@contextlib.contextmanager
def cluster(folder):
    """One node with all of this machine's cores, until the end of the block."""
    host, hosts = socket.gethostname().split(".")[0], Path("/etc/hosts")
    before = {file: file.read_text() if file.exists() else None for file in (CONF, hosts)}
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = psutil.virtual_memory().total // 2**20 - 500
    told = {"host": host, "folder": folder, "cpus": os.cpu_count(), "memory": memory}
    CONF.parent.mkdir(exist_ok=True)
    CONF.write_text(TEXT.format(**told))
    if host not in (before[hosts] or "").split():
        hosts.write_text(f"{before[hosts] or ''}\n127.0.0.1 {host}\n")
    for place in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(place).mkdir(exist_ok=True)
        shutil.chown(place, "munge", "munge")
    daemons = [
        subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground", "--force"]),
    ]
    time.sleep(1)
    daemons += [subprocess.Popen([name, "-D"]) for name in ("slurmctld", "slurmd")]
    try:
        until = time.monotonic() + 60
        while "idle" not in squeue("sinfo", "-h", "-o", "%T") and time.monotonic() < until:
            time.sleep(0.5)
        yield
    finally:
        for daemon in reversed(daemons):
            below = psutil.Process(daemon.pid).children(recursive=True)
            for process in (*below, daemon):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            daemon.wait()
        for file, text in before.items():
            file.unlink() if text is None else file.write_text(text)


def squeue(*words):
    """What a command of Slurm prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
