"""Chaos: smoke, killed with -9 at random moments and started again, ends with the same tables.

Slow, so it is run by name, with other moments for another VD_KILLS_SEED:

    VD_KILLS=50 python -m pytest -m slow -s tests/test_chaos_kills.py
"""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vd import paths

KILLS = int(os.environ.get("VD_KILLS", "50"))
SEED = int(os.environ.get("VD_KILLS_SEED", "0"))
WAITS = (1.0, 45.0)  # seconds until a kill: from Snakemake's start to the end of the longest jobs
TABLES = ("*.csv", "*.md", "*.tex", "*.parquet", "findings.json", "vprism.jsonl")


def places(folder):
    return {f"VD_{name.upper()}": str(folder / name) for name in ("results", "figures", "cache")}


def start(folder):
    """The command that ./reproduce.sh ends in, in a process group of its own."""
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "vd.workflow.launch", "smoke"],
            cwd=paths.ROOT,
            env=os.environ | places(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def living(folder):
    """Processes, of any parent, that work on this folder."""
    mine = places(folder)["VD_RESULTS"]
    found = psutil.process_iter(["environ", "status"])
    found = [p for p in found if (p.info["environ"] or {}).get("VD_RESULTS") == mine]
    return [p for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]


def tables(folder):
    """Content of everything that must not depend on kills, by path."""
    found = [folder.glob(f"{place}/**/{end}") for place in ("results", "figures") for end in TABLES]
    files = [file for files in found for file in files if "checkpoints" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def kill(program, how):
    if how == "group":
        os.killpg(program.pid, signal.SIGKILL)
    else:
        program.kill()
    program.wait()


@pytest.mark.slow
def test_killed_anywhere_smoke_goes_on_to_the_same_tables(tmp_path):
    once, chaos = tmp_path / "once", tmp_path / "chaos"
    once.mkdir(), chaos.mkdir()
    began = time.monotonic()
    assert start(once).wait() == 0, (once / "log").read_text()[-3000:]
    alone, right = time.monotonic() - began, tables(once)
    assert len(right) > 60
    draw, done, kills, longest = random.Random(SEED), 0, {"group": 0, "top": 0}, 0.0
    began = time.monotonic()
    while True:
        program = start(chaos)
        try:
            wait = draw.uniform(*WAITS) if sum(kills.values()) < KILLS else None
            code = program.wait(wait)
        except subprocess.TimeoutExpired:
            how = draw.choice(list(kills))
            kill(program, how)
            kills[how] += 1
            if draw.random() < 0.5:  # else the next one starts at once, beside what is dying
                since = time.monotonic()
                while living(chaos) and time.monotonic() - since < 20:
                    time.sleep(0.05)
                longest = max(longest, time.monotonic() - since)
            continue
        assert code == 0, (chaos / "log").read_text()[-5000:]
        left = [file for file in chaos.rglob("*.part*") if file.is_file()]
        found = tables(chaos)
        assert left == [] and found.keys() == right.keys()
        assert [name for name in right if found[name] != right[name]] == []
        done += 1
        if sum(kills.values()) >= KILLS:
            break
        for file in [*(chaos / "results").rglob("*"), *(chaos / "cache").rglob("*")]:
            file.unlink() if file.is_file() else None  # once more, from the beginning
    assert living(chaos) == [] and longest < 10
    seconds = time.monotonic() - began
    print(
        f"\n{kills['group']} kills of the process group, {kills['top']} of the top process alone; "
        f"{done} times through, {len(right)} tables equal byte for byte; no process lived "
        f"{longest + 0.1:.1f} s after a kill; {seconds:.0f} s in all, {alone:.0f} s for smoke alone"
    )
