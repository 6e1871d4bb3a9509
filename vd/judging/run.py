"""Judging: a run's replies in, its stances out."""

import pandas as pd

from vd import paths
from vd.data.probes import load_probes
from vd.judging import few_paid, trust
from vd.judging.api import ApiJudge, load_api_judge
from vd.judging.offline import load_judge
from vd.stances import P, to_topic
from vd.store.files import read_json, write_json, write_table
from vd.store.progress import Progress, Timer
from vd.store.provenance import provenance
from vd.study.load import Study
from vd.study.runs import Run

IDENTITY = ["run", "step", "prompt_id", "topic", "sample"]


def judge_run(study: Study, run: Run) -> pd.DataFrame:
    """Stances of a run's replies, written to stances.parquet, with run.json, the run's record.

    One row per reply at question level, then one at topic level (column `target`) unless its probe
    has polarity 0: the columns `IDENTITY`, p_support, p_neutral, p_oppose, label, refusal, judge,
    target. The offline judge scores every reply. An API judge, where the study has one, judges its
    share of them, which goes to judgements.parquet, and corrects the rest (see few_paid). What each
    member of an offline judge with several says goes to judges.parquet. Raises
    what `ApiJudge.judge` does.
    """
    offline, api = load_judge(study.judge), load_api_judge(study)
    # before the replies: a judge that is of no use should cost no more than this
    known = trust.quality(offline, trust.judge_labelled(offline, api))
    timer = Timer()
    responses = pd.read_parquet(paths.responses(study.name, run.id))
    classes = offline.classes(responses, Progress("judge", run.id, len(responses)))
    scored = offline.stances(classes.mean(axis=0), responses.index)
    if len(classes) > 1:
        each = [
            responses[IDENTITY].join(offline.stances(own, responses.index)[P]).assign(member=member)
            for member, own in enumerate(classes)
        ]
        write_table(pd.concat(each), paths.judges(study.name, run.id))
    if api:
        judgements = _judge_share(api, responses, study, run)
        # every row carries the API judge's name: its judgements correct them all
        scored = few_paid.rectify(scored, judgements, responses).assign(judge=api.name)
    questions = pd.concat([responses[IDENTITY], scored], axis=1).assign(target="question")
    # V-PRISM's probes may have polarity 0, which only the topic level leaves out
    polarity = load_probes(study.probing).set_index("prompt_id")["polarity"]
    table = pd.concat([questions, to_topic(questions, polarity)], ignore_index=True)
    write_table(table, paths.stances(study.name, run.id))
    # last: it says that the run is finished
    write_run(study, run, scored["judge"].iloc[0], timer.seconds, known)
    return table


def _judge_share(api: ApiJudge, responses: pd.DataFrame, study: Study, run: Run) -> pd.DataFrame:
    """The API judge's judgements of its share, written down, since they were paid for."""
    drawn = api.drawn(responses)
    judgements = api.judge(drawn, Progress("judge", run.id, len(drawn)))
    table = responses[IDENTITY].join(judgements, how="right")
    write_table(table, paths.judgements(study.name, run.id))
    return judgements


def write_run(study: Study, run: Run, judge: str, judge_seconds: float, quality: dict) -> dict:
    """Put together run.json, the record of a whole run, from the records of its stages; returns its
    content.

    `quality` is as `trust.quality` gives it; measures that are not defined (NaN) are left out. The
    base model was not trained, so its record has no training part and no tokens seen.
    """
    # JSON has no NaN
    known = {name: {k: v for k, v in q.items() if pd.notna(v)} for name, q in quality.items()}
    trained = paths.record(study.name, run.id, "train")
    train = read_json(trained) if trained.exists() else {"wall_seconds": {}, "tokens_seen": 0}
    probe = read_json(paths.record(study.name, run.id, "probe"))
    own = provenance()
    # each stage is a process of its own
    stages = {"train": train, "probe": probe, "judge": own}
    peaks = {
        stage: record["hardware"]["peak_memory_gb"]
        for stage, record in stages.items()
        if "hardware" in record
    }
    content = {
        "run": run.id,
        "config": {
            "run": run.model_dump(),
            **study.model_dump(include={"probing", "judge", "bootstrap"}),
        },
        "seed": run.seed,
        "judge": {"name": judge, "agreement": known},
        **own,
        "peak_memory_gb": peaks,
        "wall_seconds": train["wall_seconds"] | probe["wall_seconds"] | {"judge": judge_seconds},
        "tokens_seen": train["tokens_seen"],
        "tokens_generated": probe["tokens_generated"],
        "model_revision": probe["model_revision"],
        "train": {
            k: v
            for k, v in train.items()
            if k in ("checkpoints", "effective_batch_size", "trainable_parameters")
        },
    }
    write_json(content, paths.record(study.name, run.id, "run"))
    return content
