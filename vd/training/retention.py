"""What stays of a run's checkpoints once they have been asked, and where copies go.

    keep: all        everything
    keep: deltas     of whole weights, those between the ends as lossless differences from the first
    keep: ends       the first and the last; in place of the others a note with their hash
    push_to: me/name every step as revision step-N of the hub's repository me/name-<run>

Twenty checkpoints of eight billion weights are 320 GB. The last one is what other runs start from.
"""

from pathlib import Path

from vd import paths
from vd.models import deltas
from vd.models.weights import DROPPED, weights_digest
from vd.store.files import read_json, write_json
from vd.study.runs import Run

PUSHED = "pushed.json"


def retire(run: Run) -> None:
    """Do what a run's `keep` says, once nothing asks its checkpoints any more."""
    policy = run.training.keep if run.training and run.makes == "policy" else "all"
    steps = paths.steps(run.study, run.id)
    for step in steps[1:-1] if policy != "all" else ():
        folder = paths.checkpoint(run.study, run.id, step)
        if (folder / DROPPED).exists() or (folder / deltas.FILE).exists():
            continue
        if policy == "ends":
            _drop(folder)
        elif not (folder / "adapter_config.json").exists():  # adapters are small
            deltas.pack(folder, paths.checkpoint(run.study, run.id, steps[0]))


def _drop(folder: Path) -> None:
    """Remove weights, and leave what tells which they were."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    note = {"sha256": weights_digest(folder), "bytes": sum(f.stat().st_size for f in weights)}
    write_json(note, folder / DROPPED)  # before they go: a kill must not leave neither
    for file in weights:
        file.unlink()


def push(run: Run) -> None:
    """Copy every checkpoint that is not there yet to the hub, where the run says so.

    ConnectionError with the fix where the hub refuses; what was pushed stays so.
    """
    if not run.training.push_to:
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, name = HfApi(), run.id.replace("/", "-")
    repository = f"{run.training.push_to}-{name}"
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        for step in paths.steps(run.study, run.id):
            folder, branch = paths.checkpoint(run.study, run.id, step), f"step-{step}"
            note = {"repository": repository, "revision": branch}
            if (folder / PUSHED).exists() and read_json(folder / PUSHED).items() >= note.items():
                continue
            api.create_branch(repository, branch=branch, exist_ok=True)
            said = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=branch,
                allow_patterns=["*.safetensors", "*.json"],
                commit_message=f"{run.id}, step {step}",
            )
            write_json(note | {"commit": said.oid}, folder / PUSHED)
    except (HfHubHTTPError, OSError) as error:
        fix = "log in with `hf auth login`, or leave push_to out; the run is trained and stays so"
        raise ConnectionError(f"{run.id}: push_to {repository}: {error}; {fix}") from None
