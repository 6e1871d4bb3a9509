"""Judging: a run's replies in, its stances out."""

from vd import paths
from vd.store.files import read_json, write_json
from vd.store.provenance import provenance


def write_run(study, run, judge: str, judge_seconds: float, quality: dict) -> dict:
    """Put together run.json, the record of a whole run, from the records of its stages; returns its
    content.

    The base model was not trained, so its record has no training part and no tokens seen.
    """
    trained = paths.record(study.name, run.id, "train")
    train = read_json(trained) if trained.exists() else {"wall_seconds": {}, "tokens_seen": 0}
    probe = read_json(paths.record(study.name, run.id, "probe"))
    content = {
        "run": run.id,
        "config": {
            "run": run.model_dump(),
            **study.model_dump(include={"probing", "judge", "bootstrap"}),
        },
        "seed": run.seed,
        "judge": {"name": judge, "agreement": quality},
        **provenance(),
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
