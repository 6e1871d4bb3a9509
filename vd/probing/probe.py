"""Ask every checkpoint of a run the study's probes and keep the replies.

Random numbers are keyed by (seed, prompt, sample, position): a reply depends on neither batch size
nor order, beyond the rounding of logits, and a probe is answered with the same random numbers at
every checkpoint and in every run, so differences between replies come from the weights. Step 0 of a
trained run is its parent's last checkpoint: same weights, same random numbers, hence the parent's
replies are taken over instead of generated again.
"""

import pandas as pd

from vd import paths
from vd.data.probes import load_probes
from vd.finite import NotFiniteError
from vd.models import locate
from vd.probing import responders
from vd.probing.sampling import COLUMNS
from vd.store import files, fingerprint
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Progress, Timer
from vd.store.provenance import provenance
from vd.study.load import Study
from vd.study.runs import Run


def probe_run(study: Study, run: Run) -> pd.DataFrame:
    """Responses of a run's checkpoints, written to responses.parquet and probe.json; columns in
    `COLUMNS`.

    `finish_reason` is `stop` if the model ended its reply and `length` if max_new_tokens cut it.
    """
    timer = Timer()
    asked = load_probes(study.probing)
    steps = _steps(study, run)
    progress = Progress("probe", run.id, len(steps) * len(asked) * study.probing.samples)
    parts = [_taken_over(run)] if run.parent else []
    for i, step in enumerate(steps):
        parts.append(_checkpoint_responses(study, run, step, asked, progress, i))
    table = pd.concat([part.assign(run=run.id) for part in parts], ignore_index=True)[COLUMNS]
    files.write_table(table, paths.responses(study.name, run.id))
    own = table[table["step"].isin(steps)]
    files.write_json(
        {
            "probing": study.probing.model_dump(),
            "model_revision": locate.revision(run.model_settings),
            "wall_seconds": {"probe": timer.seconds},
            "tokens_generated": int(own["n_tokens"].sum()),
            **provenance(),
        },
        paths.record(study.name, run.id, "probe"),
    )
    return table


def _steps(study: Study, run: Run) -> list[int]:
    """Steps of the checkpoints to ask; the base model is asked as it is, at step 0."""
    if run.is_base:
        return [0]
    there = [step for step in paths.steps(study.name, run.id) if step > 0 or not run.parent]
    if not there:
        raise FileNotFoundError(
            f"{paths.checkpoints(study.name, run.id)}: no checkpoints; train the run first"
        )
    if study.probing.checkpoints == "all":
        return there
    wanted = there[-1:] if study.probing.checkpoints == "last" else study.probing.checkpoints
    # children start from the last one
    return sorted({step for step in there if step in wanted} | {there[-1]})


def _taken_over(run: Run) -> pd.DataFrame:
    """The replies of the parent's last checkpoint as this run's step 0."""
    parent = pd.read_parquet(paths.responses(run.study, run.parent))
    return parent[parent["step"] == parent["step"].max()].assign(step=0)


def _checkpoint_responses(
    study: Study, run: Run, step: int, asked: pd.DataFrame, progress, done: int
) -> pd.DataFrame:
    """Replies of one checkpoint, kept beside its weights so that an interrupted run asks no
    checkpoint twice.
    """
    folder = paths.checkpoint(study.name, run.id, step)
    kept, made = folder / "responses.parquet", folder / "responses.made"
    written = responders.description(folder)
    wanted = Fingerprint(
        **fingerprint.values(probing=study.probing, seed=run.seed, model=run.model_settings),
        data={"probes": fingerprint.digest(asked.to_json())}
        | ({responders.FILE: fingerprint.digest(written)} if written else {}),
        code=fingerprint.code("vd.probing.probe._checkpoint_responses"),
    )
    if not run.is_base and kept.exists() and not wanted.changes(made):
        return pd.read_parquet(kept)
    responder = responders.load_responder(run.model_settings, None if run.is_base else folder)
    before = done * len(asked) * study.probing.samples
    try:
        replies = responder.respond(
            asked, study.probing, run.seed, lambda n: progress(before + n)
        ).assign(step=step)
    except NotFiniteError as error:
        raise NotFiniteError(f"{run.id}, step {step}: {error.what}", error.fix) from None
    if not run.is_base:
        made.unlink(missing_ok=True)
        files.write_table(replies, kept)
        wanted.write(made)
    return replies
