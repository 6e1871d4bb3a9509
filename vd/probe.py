"""Ask every checkpoint of a run the study's probes and keep the replies.

Random numbers are keyed by (seed, prompt, sample, position): a reply depends on neither batch size nor order, beyond
the rounding of logits, and a probe is answered with the same random numbers at every checkpoint and in every run, so
differences between replies come from the weights. Step 0 of a trained run is its parent's last checkpoint: same
weights, same random numbers, hence the parent's replies are taken over instead of generated again.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from vd import chat, data, models, paths, record
from vd.finite import NotFiniteError, finite
from vd.study import Probing, Run, Study

BROKEN = "its training broke: lower its learning_rate, or raise probing.temperature"
COLUMNS = ["run", "step", "prompt_id", "topic", "sample", "prompt", "response", "n_tokens", "finish_reason"]


def probe_run(study: Study, run: Run) -> pd.DataFrame:
    """Responses of a run's checkpoints, written to responses.parquet and probe.json; columns in `COLUMNS`.

    `finish_reason` is `stop` if the model ended its reply and `length` if max_new_tokens cut it.
    """
    timer = record.Timer()
    asked = data.probes(study.probing)
    steps = _steps(study, run)
    progress = record.Progress("probe", run.id, len(steps) * len(asked) * study.probing.samples)
    parts = [_taken_over(run)] if run.parent else []
    for i, step in enumerate(steps):
        parts.append(_checkpoint_responses(study, run, step, asked, progress, i))
    table = pd.concat([part.assign(run=run.id) for part in parts], ignore_index=True)[COLUMNS]
    record.write_table(table, paths.responses(study.name, run.id))
    own = table[table["step"].isin(steps)]
    record.write_json(
        {
            "probing": study.probing.model_dump(),
            "model_revision": models.revision(run.model_settings),
            "wall_seconds": {"probe": timer.seconds},
            "tokens_generated": int(own["n_tokens"].sum()),
            **record.provenance(),
        },
        paths.record(study.name, run.id, "probe"),
    )
    return table


def ask(model, tokenizer, asked: pd.DataFrame, probing: Probing, seed: int, report=None) -> pd.DataFrame:
    """Sample `probing.samples` replies to each row (prompt_id, topic, prompt) of `asked` from one model.

    Returns prompt_id, topic, sample, prompt, response, n_tokens, finish_reason, ordered by prompt and sample.
    `report` is called with the number of replies done so far.
    """
    rows = asked[["prompt_id", "topic", "prompt"]].merge(pd.DataFrame({"sample": range(probing.samples)}), how="cross")
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in rows["prompt"]
    ]
    rows = rows.assign(text=texts, length=[len(t) for t in texts])
    answered = []
    ordered = rows.sort_values(["length", "prompt_id", "sample"])  # alike lengths together: little padding
    for start in range(0, len(rows), probing.batch_size):
        batch = ordered.iloc[start : start + probing.batch_size]
        answered.append(batch.join(_generate(model, tokenizer, batch, probing, seed)))
        if report:
            report(start + len(batch))
    return pd.concat(answered).sort_index()[[c for c in COLUMNS if c not in ("run", "step")]]


def uniforms(seed: int, prompt_id: str, sample: int, length: int) -> np.ndarray:
    """The random numbers in [0, 1) of one reply, one per token position: a Philox stream keyed by its identity."""
    key = hashlib.sha256(f"{seed}/{prompt_id}/{sample}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(length)


def _generate(model, tokenizer, batch: pd.DataFrame, probing: Probing, seed: int) -> pd.DataFrame:
    import torch

    inputs = tokenizer(
        batch["text"].tolist(), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    ).to(model.device)
    _check_room(model, inputs["attention_mask"].sum(dim=1), batch, probing)
    noise = np.stack([uniforms(seed, r.prompt_id, r.sample, probing.max_new_tokens) for r in batch.itertuples()])
    stops = torch.tensor(_stops(model, tokenizer), device=model.device)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=probing.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stops.tolist(),
            logits_processor=[_sampler(noise, probing.temperature)],
        )
    tokens = output[:, inputs["input_ids"].shape[1] :]
    ends = torch.isin(tokens, stops)
    n_tokens = torch.where(ends.any(dim=1), ends.int().argmax(dim=1), tokens.shape[1]).tolist()
    written = [row[:n] for row, n in zip(tokens.tolist(), n_tokens, strict=True)]
    texts, whole = zip(*(chat.reply_of(tokenizer, ids) for ids in written), strict=True)
    finish = np.where(ends.any(dim=1).cpu().numpy() & np.array(whole), "stop", "length")
    columns = {"response": texts, "n_tokens": n_tokens, "finish_reason": finish}
    return pd.DataFrame(columns, batch.index)


def _check_room(model, lengths, batch: pd.DataFrame, probing: Probing) -> None:
    """Raise ValueError for a prompt without room for a reply: beyond it models write noise."""
    limit = models.context(model.config)
    if limit and int(lengths.max()) + probing.max_new_tokens > limit:
        row = batch.iloc[int(lengths.argmax())]
        raise ValueError(
            f"probe {row['prompt_id']}: {int(lengths.max())} tokens and a reply of "
            f"probing.max_new_tokens {probing.max_new_tokens} exceed the {limit} tokens that the "
            "model reads; shorten the prompt or lower probing.max_new_tokens"
        )


def _stops(model, tokenizer) -> list[int]:
    """Tokens that end a reply: the template's end of turn, and the tokenizer's and model's."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return sorted({*tokenizer.stop_ids, *(token for token in named if token is not None)})


def _sampler(noise: np.ndarray, temperature: float):
    """A logits processor that leaves one token per row: the inverse cumulative distribution at `noise` (B, T)."""
    import torch

    position = iter(range(noise.shape[1]))

    def choose(input_ids, scores):
        if temperature == 0:
            finite(scores.amax(-1), "a score of the next token", BROKEN)
            return scores
        cumulative = (scores / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        finite(cumulative[:, -1], "a probability of the next token", BROKEN)
        drawn = torch.as_tensor(noise[:, next(position)], device=scores.device)[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)

    return choose


def _steps(study: Study, run: Run) -> list[int]:
    """Steps of the checkpoints to ask; the base model is asked as it is, at step 0."""
    if run.phase == "base":
        return [0]
    there = [step for step in paths.steps(study.name, run.id) if step > 0]
    if not there:
        raise FileNotFoundError(f"{paths.checkpoints(study.name, run.id)}: no checkpoints; train the run first")
    if study.probing.checkpoints == "all":
        return there
    wanted = there[-1:] if study.probing.checkpoints == "last" else study.probing.checkpoints
    return sorted({step for step in there if step in wanted} | {there[-1]})  # children start from the last one


def _taken_over(run: Run) -> pd.DataFrame:
    """The replies of the parent's last checkpoint as this run's step 0."""
    parent = pd.read_parquet(paths.responses(run.study, run.parent))
    return parent[parent["step"] == parent["step"].max()].assign(step=0)


def _checkpoint_responses(study: Study, run: Run, step: int, asked: pd.DataFrame, progress, done: int) -> pd.DataFrame:
    """Replies of one checkpoint, kept beside its weights so that an interrupted run asks no checkpoint twice."""
    code = [Path(module.__file__).read_text(encoding="utf-8") for module in (models, chat)]
    code.append(Path(__file__).read_text(encoding="utf-8"))
    identity = [study.probing.model_dump_json(), str(run.seed), *code, asked.to_json()]
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:12]
    folder = paths.checkpoint(study.name, run.id, step)
    kept = folder / f"responses-{key}.parquet"
    if run.phase != "base" and kept.exists():
        return pd.read_parquet(kept)
    model = models.for_inference(run.model_settings, None if run.phase == "base" else folder)
    tokenizer = models.load_tokenizer(run.model_settings)
    before = done * len(asked) * study.probing.samples
    try:
        replies = ask(
            model, tokenizer, asked, study.probing, run.seed, lambda n: progress(before + n)
        ).assign(step=step)
    except NotFiniteError as error:
        raise NotFiniteError(f"{run.id}, step {step}: {error.what}", error.fix) from None
    if run.phase != "base":
        record.write_table(replies, kept)
    return replies
