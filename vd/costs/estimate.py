"""What every job of a study will take: operations, seconds, memory, disk, calls.

A job is a run's training, its replies, or its evaluation by divergence; judging by the offline
judge and tables take minutes and are left out, as are replies to an evaluation's own prompts and
that WDPO computes in float32. Methods say what they take: FROZEN, TRAINED, PASSES and WRITES, see
vd/study/methods.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from vd import plugins
from vd.costs import formulas
from vd.costs.cards import SPARE, Card
from vd.costs.data import Reading, reading_of
from vd.costs.formulas import Texts
from vd.costs.shapes import Shape, shape_of
from vd.data.probes import load_probes
from vd.study.load import Study
from vd.study.runs import Run
from vd.study.steps import total_steps

TEXTS = {"texts": 1, "pairs": 2, "steps": 1, "prompts": 1}  # that a row is, by a method's READS
RECIPE = Reading(400, 40.0, 60.0, 1.3, 128.0)  # pairs of a recipe that has not run: a guess
PROBES, PROBE_TOKENS = 550, 40.0  # of a study that builds its probes first
JUDGE_PROMPT = 450  # tokens that an API judge is told beside the reply


@dataclass(frozen=True)
class Job:
    """One job of a study."""

    run: str
    model: str
    stage: str  # train, probe or evaluate
    what: str  # the method, or the engine
    after: tuple[tuple[str, str], ...]  # jobs (run, stage) that it waits for
    gpus: int
    seconds: float
    memory: float  # bytes on one GPU
    steps: int = 0
    tokens: float = 0.0  # read in training, or written
    disk: float = 0.0  # bytes that stay
    scratch: float = 0.0  # bytes while it works
    fix: str = ""  # what to change where it does not fit
    calls: int = 0  # of an API judge
    dollars: float = 0.0
    guessed: tuple[str, ...] = field(default=())  # what was not known


def jobs(study: Study, card: Card) -> Iterator[Job]:
    """All jobs of a study, parents before children."""
    checkpoints = {}
    for run in study.runs().values():
        shape, after = shape_of(run.model_settings), []
        if run.training:
            after = [(other, "train") for other in study.trained_before(run)]
            job, checkpoints[run.id] = _training(run, shape, card, tuple(after))
            yield job
            after = [(run.id, "train")]
        if run.makes == "policy":
            asked = _asked(study, run, checkpoints.get(run.id, [0]))
            before = [(run.parent, "probe")] if run.parent else []
            yield _probing(study, run, shape, card, asked, (*after, *before))
            if "kl" in study.evaluation_settings(run) and not run.is_base:
                yield _evaluating(study, run, shape, card, asked, ((run.id, "probe"),))


def _training(run: Run, shape: Shape, card: Card, after) -> tuple[Job, list[int]]:
    """The job that trains a run, and the steps of its checkpoints."""
    s, method = run.training, plugins.load("methods", run.method)
    known = reading_of(run)
    data = known or RECIPE
    # a policy that writes reads its own replies, one to a prompt of its data
    writes = getattr(method, "WRITES", False)
    steps, several = total_steps(s, data.rows), 1 if writes else TEXTS[run.reads]
    length = (data.prompt + data.reply) * data.padding
    texts = several * s.batch_size
    scored = texts * (length if run.reads == "texts" else data.reply * data.padding)
    scored *= getattr(method, "MAKES", "policy") == "policy"
    whole = Texts(texts * length, length, scored)
    part = s.device_batch / s.batch_size
    one = Texts(texts * part * length, length, scored * part)
    models = _models(s, method)
    seconds, tokens = 0.0, texts * (data.prompt + data.reply) * steps
    if writes:
        reply = s.response_length
        rates = card.peak * card.writing, card.bandwidth * card.writing
        batch = max(1, s.batch_size // s.devices)
        once = formulas.writing(shape, batch, data.prompt, reply, *rates)
        seconds += once * s.batch_size / (batch * s.devices)
        tokens = s.batch_size * (data.prompt + reply) * steps
    seconds += _flops(s, method, shape, whole, models) / (card.peak * card.training * s.devices)
    measured = _measuring(run, shape, card, data) if run.makes == "scorer" else 0.0
    memory = formulas.training_bytes(
        shape,
        one,
        r=s.lora and s.lora.r,
        again=s.activation_checkpointing,
        processes=s.devices,
        wide=card.wide,
        held=card.held,
        **models,
    )
    kept = checkpoints_of(run, steps)
    job = Job(
        run=run.id,
        model=run.model,
        stage="train",
        what=run.method,
        after=after,
        gpus=s.devices,
        seconds=card.start + seconds * steps + measured,
        memory=card.process + memory,
        steps=steps,
        tokens=tokens,
        disk=_checkpoint(shape, run) * len(kept),
        scratch=_scratch(shape, run),
        fix=_fix(run, shape, one, card, models),
        guessed=() if known else (f"rows of '{s.data}'",),
    )
    return job, kept


def _models(s, method) -> dict[str, int]:
    """How many models a run holds: frozen, trained, and those on a base of their own."""
    scorer = getattr(s, "scorer", None) is not None
    frozen, trained = getattr(method, "FROZEN", 0), getattr(method, "TRAINED", 1)
    return {"frozen": frozen, "trained": trained, "whole": int(scorer)}


def _flops(s, method, shape: Shape, whole: Texts, models: dict) -> float:
    """Operations of an optimiser step, or of all those on one batch that a policy has written."""
    how = {"adapters": bool(s.lora), "again": s.activation_checkpointing}
    updates = getattr(s, "ppo_epochs", getattr(s, "iterations", 1))
    flops = formulas.step(shape, whole, **how) * models["trained"] * updates
    # frozen ones read a batch once, as do those that are trained where they have written it
    readers = models["frozen"] + models["trained"] * getattr(method, "WRITES", False)
    flops += formulas.forward(shape, whole.tokens, whole.longest, whole.scored) * readers
    return flops * getattr(method, "PASSES", 1)


def _measuring(run: Run, shape: Shape, card: Card, data: Reading) -> float:
    """Seconds in which a trained scorer is measured on held-out pairs and normalised on replies of
    its parent.
    """
    s, length = run.training, data.prompt + data.reply
    samples = getattr(s, "reference_samples", 0)
    share = getattr(s, "held_out", 0.0)
    texts = 2 * data.rows * share / (1 - share) + samples
    read = formulas.forward(shape, texts * length, length, 0) / (card.peak * card.training)
    rates = card.peak * card.writing, card.bandwidth * card.writing
    reply = getattr(s, "response_length", 0)
    written = formulas.writing(shape, s.device_batch, data.prompt, reply, *rates)
    return read + written * samples / s.device_batch


def checkpoints_of(run: Run, steps: int) -> list[int]:
    """Steps at which a run of so many steps keeps a checkpoint; a scorer keeps its start and its
    end.
    """
    if run.makes == "scorer":
        return [0, steps]
    s = run.training
    return sorted({0, steps, *range(0, steps, s.save_every), *(s.save_at or ())})


def _checkpoint(shape: Shape, run: Run) -> float:
    """Bytes of a checkpoint: adapters in float32, whole weights in two bytes each."""
    lora = run.training.lora
    return shape.adapters(lora.r) * 4 if lora else shape.parameters * 2


def _scratch(shape: Shape, run: Run) -> float:
    """Bytes of what the last two checkpoints keep beside until a run has ended: Adam's moments, and
    of whole weights the float32 ones.
    """
    lora = run.training.lora
    return 2 * (shape.adapters(lora.r) * 8 if lora else shape.parameters * (2 + 8))


def _fix(run: Run, shape: Shape, one: Texts, card: Card, models: dict) -> str:
    """What to change in the study where a run does not fit a card; nothing where it does."""
    s, room = run.training, card.memory * (1 - SPARE)

    def needs(processes, again, r):
        how = {"processes": processes, "again": again, "r": r, "wide": card.wide}
        return formulas.training_bytes(shape, one, **how, held=card.held, **models)

    rank = s.lora and s.lora.r
    if needs(s.devices, s.activation_checkpointing, rank) <= room:
        return ""
    if needs(s.devices, True, rank) <= room:
        return "write activation_checkpointing: true"
    # adapters are not sharded, and some methods train on one GPU alone
    alone = rank or type(s).model_fields["processes"].annotation is not int
    shared = [n for n in (2, 4, 8, 16) if s.batch_size % (s.device_batch * n) == 0]
    for n in [] if alone else shared:
        for again in (False, True):
            if needs(n, again, rank) <= room:
                more = " and activation_checkpointing: true" if again else ""
                return f"write processes: {n}{more}"
    if rank is None and needs(1, True, 16) <= room:
        return "write lora: {}" + (", or take another method" if alone else "")
    return "write device_batch_size: 1, or take a larger card"


def _asked(study: Study, run: Run, kept: list[int]) -> int:
    """How many checkpoints are asked for replies; step 0 is the parent's end."""
    own = [step for step in kept if step or not run.parent]
    if study.probing.checkpoints == "all":
        return len(own)
    if study.probing.checkpoints == "last":
        return 1
    return len({step for step in own if step in study.probing.checkpoints} | {own[-1]})


def _replies(study: Study) -> tuple[int, float]:
    """Replies of a checkpoint, and tokens of a prompt."""
    if study.asks_vprism:
        per_topic = study.probing.per_topic or study.vprism.per_topic
        return min(PROBES, 11 * per_topic) * study.probing.samples, PROBE_TOKENS
    probes = load_probes(study.probing)
    return len(probes) * study.probing.samples, PROBE_TOKENS


def _probing(study: Study, run: Run, shape: Shape, card: Card, asked: int, after) -> Job:
    p, (replies, prompt) = study.probing, _replies(study)
    rates = card.peak * card.writing, card.bandwidth * card.writing
    batch = min(p.batch_size if p.engine == "transformers" else 256, replies)
    once = formulas.writing(shape, batch, prompt, p.max_new_tokens, *rates)
    api = study.judge.api
    calls = round(replies * asked * (api.share if api else 0))
    price = (api.price_in * (JUDGE_PROMPT + p.max_new_tokens) + api.price_out * 8) if api else 0
    return Job(
        run=run.id,
        model=run.model,
        stage="probe",
        what=p.engine,
        after=after,
        gpus=1,
        seconds=card.start * (1 + asked / 4) + asked * once * replies / batch,
        memory=card.process
        + formulas.writing_bytes(shape, batch, prompt + p.max_new_tokens, card.wide),
        tokens=float(replies * asked * p.max_new_tokens),
        calls=calls,
        dollars=calls * price / 1e6 * (0.5 if api and api.batch else 1.0),
    )


def _evaluating(study: Study, run: Run, shape: Shape, card: Card, asked: int, after) -> Job:
    """The divergence from a run's start: both read all replies, at every asked checkpoint."""
    replies, prompt = _replies(study)
    length = prompt + study.probing.max_new_tokens
    flops = 2 * formulas.forward(shape, replies * length, length, replies * length)
    return Job(
        run=run.id,
        model=run.model,
        stage="evaluate",
        what="kl",
        after=after,
        gpus=1,
        seconds=card.start * (1 + asked / 4) + asked * flops / (card.peak * card.training),
        memory=card.process + 2 * formulas.writing_bytes(shape, 8, length, card.wide),
        tokens=float(replies * asked * length),
    )
