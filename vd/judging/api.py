"""A judge behind an OpenAI-compatible API: the paper's GPT-4o, another model, or a server of your
own.

Where the server gives log-probabilities, one token decides: p(label) is the softmax over the three
labels, summed over every way to begin them (Value Drifts, arXiv 2510.26707), and what probability
is left for other tokens is reported. Elsewhere several answers vote, by structured output if the
server knows it. What a server can do is asked, not guessed. The prompt is a file of vd/prompts. A
reply that could not be judged has no probabilities, and a status that says why.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import pandas as pd

from vd import paths
from vd.judging import few_paid
from vd.judging.prompt import Prompt
from vd.servers import batches, client
from vd.servers.answers import begins, label_in, label_in_json
from vd.servers.budget import Spending
from vd.servers.client import Rejected, RejectsAll
from vd.servers.database import Cache, request_key
from vd.servers.kept import ask_missing
from vd.servers.response import ServerError, shorten
from vd.stances import STANCES
from vd.store.progress import Progress
from vd.study.load import Study
from vd.study.servers import ApiJudgeSettings

MOST_LEFT = (
    0.5  # of the probability; with more on other tokens than on the labels, answers vote instead
)
ABLE = {  # what a server may be able to do; only what it will not take is struck
    "logprobs": 20,  # tokens with log-probabilities
    "structured": True,  # answers that follow a JSON schema
    "length": "max_tokens",  # newer models take max_completion_tokens
    "temperature": True,
    "seed": True,
}
VOTE_TOKENS = 16
MANY = 10  # replies; if none of them gets a label, something is wrong with the judge
CHARACTERS = 4  # per token, for estimates of cost before a model has answered anything
NOTHING = (math.nan, math.nan, math.nan, None)  # p_support, p_neutral, p_oppose, label
SCHEMA = {
    "name": "stance",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(STANCES)}},
        "required": ["label"],
        "additionalProperties": False,
    },
}
JUDGED = ["p_support", "p_neutral", "p_oppose", "label", "status", "path", "left", "answer"]
JUDGED += ["answered"]
COLUMNS = [*JUDGED, "model", "base_url", "prompt_version", "temperature", "seed", "votes"]


class ApiJudge:
    """Asks a server for stances; nothing is sent before `judge` finds something to ask."""

    def __init__(self, settings: ApiJudgeSettings, study: str, order: tuple[str, ...] = STANCES):
        self.settings, self.study, self.order = settings, study, order
        self.prompt = Prompt(settings.prompt)
        self.version = self.prompt.version
        self.name = f"{settings.model} {self.version}"
        self.file = paths.cache() / "judgements.sqlite"

    def judge(self, responses: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        """Judgements of replies (columns prompt, response), index kept: the columns `COLUMNS`.

        `status` is ok, unclear (no label in the answer), refused (the judge declined) or rejected
        (the server would not take the request, or failed at it alone); all but ok have no
        probabilities and no label. `left` is the probability of other tokens than labels, or the
        share of votes without one; `answered` the name by which the answers are signed. Identical
        replies are judged once and no answer is asked for twice. Raises vd.api_client.ServerError
        (also if not one of many replies gets a label), BudgetError and vd.api_cache.CacheError.
        """
        with Cache(self.file) as cache:
            found = self._judge(cache, _pairs(responses), progress)
        self._any_label(found)
        pairs = zip(responses["prompt"], responses["response"], strict=True)
        rows = [found[pair] for pair in pairs]
        table = pd.DataFrame(rows, index=responses.index, columns=JUDGED)
        voted = table["path"] == "votes"
        return table.assign(
            model=self.settings.model,
            base_url=self.settings.base_url,
            prompt_version=self.version,
            temperature=voted.map(
                {True: self.settings.vote_temperature, False: self.settings.temperature}
            ),
            seed=self.settings.seed,
            votes=voted.map({True: self.settings.votes, False: 1}),
        )

    def drawn(self, responses: pd.DataFrame) -> pd.DataFrame:
        """The replies of a run that this judge is asked about.

        Its share, drawn at random (see vd.ppi).
        """
        return responses[few_paid.draw(responses, self.settings.share, self.settings.seed)]

    def cost(self, responses: pd.DataFrame) -> dict:
        """What judging would take, without asking anything: rows, replies (distinct), kept, calls,
        tokens, dollars.

        Also other_prompts, the number of answers of this model to other prompts, which are of no
        use now. Before a server is known one answer a reply is assumed; replies that need votes
        after all come on top.
        """
        url, model, pairs = self.settings.base_url, self.settings.model, _pairs(responses)
        with Cache(self.file) as cache:
            able = self._kept_abilities(cache) or ABLE
            wanted = self._requests(pairs, able, voting=not able["logprobs"])
            asked = {name: request for _, name, request in wanted}
            kept = cache.answers(asked, self.settings)
            mean = cache.mean_tokens(url, model)
            versions = cache.per_prompt(url, model)
        missing = [request for name, request in asked.items() if name not in kept]
        tokens = sum(
            mean or len(request["messages"][0]["content"]) / CHARACTERS for request in missing
        )
        tokens_out = sum(request[able["length"]] for request in missing)
        dollars = (tokens * self.settings.price_in + tokens_out * self.settings.price_out) / 1e6
        return {
            "rows": len(responses),
            "replies": len(pairs),
            "kept": len(kept),
            "calls": len(missing),
            "tokens": round(tokens),
            "dollars": dollars * (batches.PRICE if self.settings.batch else 1),
            "other_prompts": sum(n for version, n in versions.items() if version != self.version),
        }

    def cost_line(self, responses: pd.DataFrame) -> str:
        """`cost` as a sentence."""
        c = self.cost(responses)
        line = f"{self.name}: {c['rows']:,} rows, {c['replies']:,} distinct; {c['kept']:,} answers kept"
        line += f", {c['calls']:,} to pay, about {c['tokens']:,} tokens"
        priced = self.settings.price_in + self.settings.price_out
        line += f", ${c['dollars']:.2f}" if priced else "; price_in and price_out are not set"
        if c["calls"] and c["other_prompts"]:
            line += f"; {c['other_prompts']:,} answers to other prompts are kept, but of no use to this one"
        return line

    def _judge(
        self, cache: Cache, pairs: list[tuple], progress: Progress | None
    ) -> dict[tuple, tuple]:
        """Rows of the first columns by pair.

        By log-probabilities, and by votes where there are none to go by.
        """
        able = self._abilities(cache) if pairs else ABLE
        found = {}
        if able["logprobs"]:
            given = self._answers(cache, pairs, able, False, progress)
            found = {p: (*row, _names([a])) for p, (a,) in given.items() if (row := by_tokens(a))}
        rest = [pair for pair in pairs if pair not in found]
        voted = self._answers(cache, rest, able, True, progress)
        return found | {pair: (*by_votes(given), _names(given)) for pair, given in voted.items()}

    def _any_label(self, found: dict[tuple, tuple]) -> None:
        """Raise ServerError if not one of many replies has a label: that is not their fault."""
        statuses = Counter(row[4] for row in found.values())
        if len(found) < MANY or statuses["ok"]:
            return
        why = ", ".join(f"{n:,} {status}" for status, n in statuses.items())
        said = shorten(next(row[7] for row in found.values()))
        model = self.settings.model
        raise ServerError(
            f"{self.settings.base_url}: {model} judged none of {len(found):,} replies "
            f"({why}; such as {said!r}): choose a model that follows instructions, and turn its "
            "thinking off if it thinks before it answers"
        )

    def _answers(self, cache, pairs, able, voting, progress) -> dict[tuple, list[dict]]:
        """All answers on each pair, kept or given; one that is rejected is {"rejected": reason}."""
        asked = list(self._requests(pairs, able, voting))
        requests = {name: request for _, name, request in asked}
        send = client.ask
        if self.settings.batch:
            send = partial(batches.ask, cache=cache, purpose=self.name)
        how = self.settings, cache, self.study, progress
        try:
            kept = ask_missing(requests, *how, prompt=self.version, send=send)
        except RejectsAll:  # it may be another server than before at the same address
            cache.keep_abilities(self.settings.base_url, self.settings.model, None)
            raise
        answers = {}
        for pair, name, _ in asked:
            answers.setdefault(pair, []).append(kept[name])
        return answers

    def _requests(
        self, pairs: Iterable[tuple], able: dict, voting: bool
    ) -> Iterator[tuple[tuple, str, dict]]:
        """(pair, key, request) for each answer that is wanted."""
        for pair in pairs:
            for number in range(self.settings.votes if voting else 1):
                request = self._request(self.prompt.text(*pair, self.order), able, voting, number)
                yield pair, request_key(self.settings.base_url, request, number), request

    def _request(self, text: str, able: dict, voting: bool, number: int = 0) -> dict:
        """The body of a request. One message of the user.

        Not every chat template knows a system role.
        """
        request = {"model": self.settings.model, "messages": [{"role": "user", "content": text}]}
        request[able["length"]] = VOTE_TOKENS if voting else 1
        if able["temperature"]:
            request["temperature"] = (
                self.settings.vote_temperature if voting else self.settings.temperature
            )
        if able["seed"]:
            request["seed"] = self.settings.seed + number
        if voting and able["structured"]:
            request["response_format"] = {"type": "json_schema", "json_schema": SCHEMA}
        if not voting:
            request |= {"logprobs": True, "top_logprobs": able["logprobs"]}
        return request

    def _abilities(self, cache: Cache) -> dict:
        """What the server can do, asked once and kept: see `ABLE`."""
        if able := self._kept_abilities(cache):
            return able
        with cache.alone():
            able = dict(ABLE)
            if not self._try(cache, able, False)["tokens"]:
                able["logprobs"] = 0
                said = self._try(cache, able, True)["content"]
                able["structured"] = label_in_json(said) is not None
            cache.keep_abilities(self.settings.base_url, self.settings.model, able)
        return able

    def _kept_abilities(self, cache: Cache) -> dict | None:
        """What the server was found able to do; None if that is not known, or cannot be read."""
        able = cache.abilities(self.settings.base_url, self.settings.model)
        if not isinstance(able, dict) or _types(able) != _types(ABLE):
            return None
        return able if able["length"] in ("max_tokens", "max_completion_tokens") else None

    def _try(self, cache: Cache, able: dict, voting: bool) -> dict:
        """An answer to a sample request; what the server will not take is struck from `able`."""
        text = self.prompt.text("Should tea be free?", "Yes, it should.")
        # a wrong address should show soon
        settings = self.settings.model_copy(update={"retries": min(2, self.settings.retries)})
        while voting or able["logprobs"]:
            try:
                return client.ask_once(
                    self._request(text, able, voting), settings, self._spending(cache)
                )
            except Rejected as error:
                if not _strike(able, str(error)):
                    raise ServerError(f"{self.settings.base_url}: {error}") from None
        return {"tokens": None}

    def _spending(self, cache: Cache) -> Spending:
        return Spending.kept_in(cache, self.study, self.settings)


def load_api_judge(study: Study) -> ApiJudge | None:
    """The API judge of a study; None if it has none."""
    return ApiJudge(study.judge.api, study.name) if study.judge.api else None


def by_tokens(answer: dict) -> tuple | None:
    """A judgement from the log-probabilities of the first token; None if they do not decide.

    p(label) = sum of p(token) over the tokens that begin the label, divided by the same sum over
    all labels.
    """
    if "rejected" in answer:
        return (*NOTHING, "rejected", "logprobs", math.nan, answer["rejected"])
    if answer["refusal"]:
        return (*NOTHING, "refused", "logprobs", math.nan, answer["refusal"])
    mass = dict.fromkeys(STANCES, 0.0)
    for token, logprob in answer["tokens"] or ():
        if label := begins(token):
            mass[label] += math.exp(logprob)
    total = sum(mass.values())
    if 1 - total > MOST_LEFT:
        return None
    shares = [mass[label] / total for label in STANCES]
    return (
        *shares,
        max(mass, key=mass.get),
        "ok",
        "logprobs",
        max(1 - total, 0.0),
        answer["content"],
    )


def by_votes(answers: list[dict]) -> tuple:
    """A judgement from several answers: the share of each label among those that name one."""
    given = [a for a in answers if "rejected" not in a and not a["refusal"]]
    named = [name for a in given if (name := label_in(a["content"]))]
    said = " | ".join(a.get("rejected") or a["refusal"] or a["content"] for a in answers)
    left = 1 - len(named) / len(answers)
    if not named:
        rejected, refused = (all(a.get(what) for a in answers) for what in ("rejected", "refusal"))
        return (
            *NOTHING,
            "rejected" if rejected else "refused" if refused else "unclear",
            "votes",
            left,
            said,
        )
    shares = [named.count(name) / len(named) for name in STANCES]
    return (*shares, max(STANCES, key=named.count), "ok", "votes", left, said)


def _types(able: dict) -> dict:
    return {name: type(value) for name, value in able.items()}


def _names(answers: list[dict]) -> str | None:
    """The names under which answers came."""
    return " | ".join(sorted({a["model"] for a in answers if a.get("model")})) or None


def _pairs(responses: pd.DataFrame) -> list[tuple[str, str]]:
    return sorted(set(zip(responses["prompt"], responses["response"], strict=True)))


def _strike(able: dict, said: str) -> bool:
    """Strike the ability that a server complains of; False if it complains of something else."""
    if "logprobs" in said and able["logprobs"]:
        able["logprobs"] = 5 if able["logprobs"] > 5 else 0  # some servers give five
    elif "max_tokens" in said and able["length"] == "max_tokens":
        able["length"] = "max_completion_tokens"
    elif ("response_format" in said or "json_schema" in said) and able["structured"]:
        able["structured"] = False
    else:
        named = [name for name in ("temperature", "seed") if name in said and able[name]]
        able |= dict.fromkeys(named, False)
        return bool(named)
    return True
