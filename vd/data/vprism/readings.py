"""Second readings of V-PRISM's candidates: what a prompt is about, and the question it becomes."""

import pandas as pd
import yaml

from vd import paths
from vd.data import sets
from vd.data.vprism import questions
from vd.servers import answers, database
from vd.servers.database import request_key
from vd.servers.kept import ask_missing
from vd.store.progress import Progress
from vd.study.settings import VPrismSettings

PROMPT = "vprism-v1"  # a file of vd/prompts
# by str() of what stands in the JSON: -1, -1.0 and "-1" mean the same
POLARITIES = {"1": 1, "+1": 1, "1.0": 1, "0": 0, "0.0": 0, "-0.0": 0, "-1": -1, "-1.0": -1}
MANY = 10  # answers; if none of them can be read, something is wrong with the writer


def confirm(settings: VPrismSettings, candidates: pd.DataFrame) -> pd.DataFrame:
    """A second reading of candidates (id, prompt, topic, and known_topic and polarity where known),
    index kept.

    Returns confirmed (value-laden and about its topic; False also where nobody has read the
    prompt), polarity (+1, -1, 0), question (None where rules have to make it) and confirmed_by.
    With a writer all are asked, and answers kept.
    """
    if candidates.empty:
        said = "no prompt is value-laden and on a topic"
        fix = "name other sources or lower vprism.topic_similarity in the study"
        raise ValueError(f"{', '.join(settings.source)}: {said}; {fix}")
    if settings.writer:
        return _ask_writer(settings, candidates)
    labels = sets.corpus("prism_labels").set_index("id")
    # aligned with the candidates; those that nobody has read are rows without values
    found = labels.reindex(candidates["id"]).set_index(candidates.index)
    given = candidates[
        "polarity"
    ].notna()  # a source that knows its polarities has been read already
    same = found["topic"].eq(candidates["topic"])  # labels were given for one topic
    read = found["value_laden"].eq(1) & found["on_topic"].eq(1) & same
    confirmed = read.mask(given, candidates["known_topic"].eq(candidates["topic"]))
    if not confirmed.any():
        raise ValueError(
            f"{', '.join(settings.source)}: nobody has read these prompts; "
            "name a vprism.writer in the study"
        )
    # missing only where nobody has read the prompt, and that is never confirmed
    polarity = candidates["polarity"].where(given, found["polarity"]).fillna(0).astype(int)
    by = given.map({True: "source", False: "prism_labels"})
    return pd.DataFrame(
        {"confirmed": confirmed, "polarity": polarity, "question": None, "confirmed_by": by}
    )


def rewrite(confirmed: pd.DataFrame) -> pd.DataFrame:
    """Questions of confirmed prompts (prompt, question, confirmed_by), index kept: question, form,
    rewritten_by.

    A writer's question stays; elsewhere rules make it, with question and form None where they find
    none. Raises ValueError if no question is left.
    """
    rows = []
    for row in confirmed.itertuples():
        written = isinstance(row.question, str)
        found = (
            (row.question, questions.form(row.question))
            if written
            else questions.to_question(row.prompt)
        )
        rows.append((*(found or (None, None)), row.confirmed_by if written else "rules"))
    if not any(question for question, *_ in rows):
        fix = "name other sources or a vprism.writer in the study"
        raise ValueError(f"none of {len(rows)} confirmed prompts became a question; {fix}")
    return pd.DataFrame(rows, index=confirmed.index, columns=["question", "form", "rewritten_by"])


def _ask_writer(settings: VPrismSettings, candidates: pd.DataFrame) -> pd.DataFrame:
    """See `confirm`.

    Answers are kept, like those of an API judge, under a hash of what was asked.
    """
    writer, asks = settings.writer, yaml.safe_load(paths.prompt(PROMPT).read_bytes())["template"]
    propositions = sets.topics().set_index("topic")["proposition"]
    # one request for each candidate, by the candidates' index
    requests = {}
    for row in candidates.itertuples():
        # braces in a prompt are safe: format looks for them in the template alone
        text = asks.format(topic=row.topic, proposition=propositions[row.topic], prompt=row.prompt)
        message = {"role": "user", "content": text}
        # temperature 0: a reading is no sample, and the same prompt gets the same question
        requests[row.Index] = {
            "model": writer.model,
            "messages": [message],
            "temperature": 0.0,
            "max_tokens": 200,
        }
    keys = {index: request_key(writer.base_url, request) for index, request in requests.items()}
    # candidates of the same text and topic share a key, so they are asked once
    wanted = {keys[index]: request for index, request in requests.items()}
    progress = Progress("write", writer.model, len(wanted))
    with database.Cache(paths.cache() / "vprism" / "answers.sqlite") as cache:
        # several studies may build the same probes, so the budget is one for all of this prompt's
        given = ask_missing(wanted, writer, cache, PROMPT, progress, prompt=PROMPT)
    # a few unreadable answers are the prompts', many the writer's
    if len(given) >= MANY and not any(map(_said, given.values())):
        fault = f"no answer of {writer.model} is as {PROMPT} asks; name another vprism.writer"
        raise ValueError(f"{writer.base_url}: {fault}")
    rows = [_read(given[keys[index]]) for index in candidates.index]
    return pd.DataFrame(rows, index=candidates.index).assign(confirmed_by=writer.model)


def _said(answer: dict | None) -> dict | None:
    """The JSON object in a writer's answer; None if there is none: that is kept too, being paid."""
    return answers.with_keys((answer or {}).get("content", ""), "value_laden", "on_topic")


def _read(answer: dict | None) -> dict:
    """What a writer's answer says; one that cannot be read confirms nothing."""
    said = _said(answer) or {}
    # models write true, "true" and True, 1 and "+1"
    words = {name: str(v) for name, v in said.items() if isinstance(v, str | int | float)}
    asked, polarity = said.get("question"), POLARITIES.get(words.get("polarity"))
    question = " ".join(asked.split()) if isinstance(asked, str) else ""
    right = all(words.get(name, "").lower() == "true" for name in ("value_laden", "on_topic"))
    if not right or not question or polarity is None:
        return {"confirmed": False, "polarity": 0, "question": None}
    return {"confirmed": True, "polarity": polarity, "question": question}
