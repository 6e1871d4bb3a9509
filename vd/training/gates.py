"""Before the first step: is this the training that the study means?

Expensive runs are lost to a data set that was cut, a warm-up of another length, a mask on the wrong
tokens. What a study expects is compared with what was found, and the first batch is written down as
the model reads it.
"""

from vd import paths
from vd.store.files import write_text
from vd.study.runs import Run
from vd.training import processes

FILE = "first_batch.txt"
IDS = "input_ids"
WARMUP = 0.02  # by how much of all steps a warm-up may differ from its expected share


class UnexpectedError(ValueError):
    """What a study expects of a run is not what was found."""


def check(run: Run, rows: int, steps: int) -> None:
    """Raise UnexpectedError, with all that differs, where a run is not what its study expects."""
    expected = run.training.expect
    if expected is None:
        return
    share = run.training.warmup_steps / steps
    found = {"rows": rows, "steps": steps, "processes": processes.world()}
    wrong = [
        f"{key} {value}, found {found[key]}"
        for key, value in expected.model_dump(include=found.keys(), exclude_none=True).items()
        if value != found[key]
    ]
    if expected.warmup is not None and abs(share - expected.warmup) > WARMUP:
        wrong.append(f"warmup {expected.warmup:g} of the steps, found {share:.3g}")
    if wrong:
        fix = "nothing was trained; correct the data, the keys or `expect`"
        raise UnexpectedError(f"{run.id}: expected {'; '.join(wrong)}; {fix}")


def show_first_batch(run: Run, trainer) -> None:
    """Let the first batch that a trainer computes a loss of be written to the run's folder."""
    plain = getattr(trainer, "compute_loss", None)

    def compute_loss(model, inputs, *args, **kwargs):
        trainer.compute_loss = plain
        if processes.first():
            text = told(trainer.processing_class, inputs)
            write_text(text, paths.run(run.study, run.id, FILE))
        return plain(model, inputs, *args, **kwargs)

    if plain:  # PPO has a loop of its own, and no batch of texts
        trainer.compute_loss = compute_loss


def told(tokenizer, inputs: dict) -> str:
    """A batch as text: what bears loss stands between ⟦ and ⟧, and padding is left out."""
    names = [key.removesuffix(IDS) for key in inputs if key.endswith(IDS)]
    masks = {prefix: _scored(inputs, prefix) for prefix in names}
    # of texts that some trainers keep apart, such as prompts alone, none bears loss
    masks = {p: mask for p, mask in masks.items() if mask is not None} or masks
    parts = []
    for prefix, scored in masks.items():
        there = inputs.get(f"{prefix}attention_mask")
        for i, row in enumerate(inputs[f"{prefix}{IDS}"].tolist()):
            kept = [True] * len(row) if there is None else there[i].bool().tolist()
            loss = [True] * len(row) if scored is None else scored[i].bool().tolist()
            text, inside = "", False
            for token, keep, bears in zip(row, kept, loss, strict=True):
                if keep and bears != inside:
                    text, inside = text + ("⟦" if bears else "⟧"), bears
                text += tokenizer.decode([token]) if keep else ""
            parts.append(f"--- {prefix}{i}\n{text}{'⟧' if inside else ''}")
    return "\n".join(parts) + "\n"


def _scored(inputs: dict, prefix: str):
    """Which tokens bear loss; None where nothing says so."""
    labels = inputs.get(f"{prefix}labels")
    return inputs.get("completion_mask") if labels is None else labels != -100
