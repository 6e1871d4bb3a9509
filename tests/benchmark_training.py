"""How near to the machine's limit steps are: `python tests/benchmark_training.py [STUDY]` writes
results/benchmark.json.

Each method of a study takes eight steps, of which the last four are timed. The limit is the time
that their floating-point operations, counted while the same steps are trained once more, would take
at the rate of a large matrix product in the precision in which the machine computes it. Run it on
an idle machine; one job has one thread.
"""

import os
import shutil
import sys
import tempfile
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from vd import paths
from vd.models.precision import computed_in
from vd.store import files
from vd.store.provenance import provenance
from vd.study.load import load_study
from vd.training.report import Report
from vd.training.train import train_run

STEPS, TIMED = 8, 4
SIZE, REPEATS = 2048, 8


def gemm(dtype):
    """Operations a second of a product of two square matrices, the best of several."""
    one, other = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(REPEATS):
        start = time.perf_counter()
        one @ other
        best = max(best, 2 * SIZE**3 / (time.perf_counter() - start))
    return best


def short(run):
    """The run with a few steps."""
    keys = {"steps": STEPS, "epochs": None, "save_every": STEPS, "save_at": None}
    keys |= {"min_accuracy": 0.0} if run.makes == "scorer" else {}
    return run.model_copy(update={"settings": run.settings.model_copy(update=keys)})


def gained(run, read):
    """What `read` gained in a timed step, on average, when the run is trained from its start."""
    said, plain = [], Report.on_step_end

    def on_step_end(*args, **kwargs):
        said.append(read())
        return plain(*args, **kwargs)

    shutil.rmtree(paths.checkpoints(run.study, run.id), ignore_errors=True)
    Report.on_step_end = on_step_end
    try:
        train_run(run)
    finally:
        Report.on_step_end = plain
    return (said[STEPS - 1] - said[STEPS - TIMED - 1]) / TIMED


def measured(run):
    """Seconds of a step, beside those that its operations would take at the rate of the machine."""
    dtype = computed_in(run.model_settings.dtype)
    rate = gemm(dtype)
    seconds = gained(run, time.perf_counter)
    with FlopCounterMode(display=False) as counter:
        flops = gained(run, counter.get_total_flops)
    return {
        "method": run.method,
        "computed_in": str(dtype).removeprefix("torch."),
        "seconds_per_step": round(seconds, 2),
        "limit_seconds": round(flops / rate, 2),
        "share_of_limit": round(flops / rate / seconds, 2),
        "gflop_per_step": round(flops / 1e9),
        "gemm_gflops": round(rate / 1e9),
    }


def main():
    study = load_study(sys.argv[1] if len(sys.argv) > 1 else "pocket")
    torch.set_num_threads(1)
    runs = [r for r in study.runs().values() if r.training and r.seed == study.seeds[0]]
    first = {(run.model, run.method): run.id for run in reversed(runs)}  # of each method
    parents = {other for run in runs for other in study.trained_before(run)}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VD_RESULTS"] = folder
        for run in runs:  # parents come before their children
            if run.id in first.values():
                found[run.lineage] = measured(short(run))
                print(run.lineage, found[run.lineage], flush=True)
            elif run.id in parents:
                train_run(short(run))
    del os.environ["VD_RESULTS"]
    content = {"study": study.name, "steps": found, **provenance()}
    files.write_json(content, paths.results("") / "benchmark.json")


main()
