"""A judge behind an OpenAI-compatible API: the paper's GPT-4o, another model, or a server of your
own.

Where the server gives log-probabilities, one token decides: p(label) is the softmax over the three
labels, summed over every way to begin them (Value Drifts, arXiv 2510.26707), and what probability
is left for other tokens is reported. Elsewhere several answers vote, by structured output if the
server knows it. What a server can do is asked, not guessed. The prompt is a file of vd/prompts. A
reply that could not be judged has no probabilities, and a status that says why.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import pandas as pd

from vd import paths
from vd.judging import capabilities, few_paid
from vd.judging.capabilities import CAPABILITIES
from vd.judging.probabilities import by_tokens, by_votes, columns
from vd.judging.prompt import Prompt
from vd.servers import batches, client
from vd.servers.budget import Spending
from vd.servers.client import RejectsAll
from vd.servers.database import Cache, request_key
from vd.servers.kept import ask_missing
from vd.servers.response import ServerError, shorten
from vd.stances import STANCES
from vd.store.progress import Progress
from vd.study.load import Study
from vd.study.servers import ApiJudgeSettings

MANY = 10  # replies; if none of them gets a label, something is wrong with the judge
CHARACTERS = 4  # per token, for estimates of cost before a model has answered anything
SAMPLE = "Should tea be free?", "Yes, it should."  # by which a server's capabilities are found


class ApiJudge:
    """Asks a server for stances, or other labels; nothing is sent before `judge` finds something to
    ask.
    """

    def __init__(
        self,
        settings: ApiJudgeSettings,
        study: str,
        order: tuple[str, ...] | None = None,
        labels: tuple[str, ...] = STANCES,
    ):
        self.settings, self.study = settings, study
        self.labels, self.order = labels, order or labels
        self.prompt = Prompt(settings.prompt, labels)
        self.version = self.prompt.version
        # the prompt's version is a part: the same model with another prompt is another judge
        self.name = f"{settings.model} {self.version}"
        self.file = paths.cache() / "judgements.sqlite"

    def judge(self, responses: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        """Judgements of replies (columns prompt, response), index kept: p_<label> of each
        label, label, status, path, left, answer, answered, model, base_url, prompt_version,
        temperature, seed, votes.

        `status` is ok, unclear (no label in the answer), refused (the judge declined) or rejected
        (the server would not take the request, or failed at it alone); all but ok have no
        probabilities and no label. `left` is the probability of other tokens than labels, or the
        share of votes without one; `answered` the name by which the answers are signed. Identical
        replies are judged once and no answer is asked for twice. Raises ServerError
        (also if not one of many replies gets a label), BudgetError and CacheError.
        """
        # opened for this call alone: other notebooks may write to it meanwhile
        with Cache(self.file) as cache:
            found = self._judge(cache, _pairs(responses), progress)
        self._any_label(found)
        pairs = zip(responses["prompt"], responses["response"], strict=True)
        rows = [found[pair] for pair in pairs]
        table = pd.DataFrame(rows, index=responses.index, columns=columns(self.labels))
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

        Its share, drawn at random (see vd.judging.few_paid).
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
            can = capabilities.kept(cache, self.settings) or CAPABILITIES
            wanted = self._requests(pairs, can, voting=not can["logprobs"])
            asked = {name: request for _, name, request in wanted}
            kept = cache.answers(asked, self.settings)
            mean = cache.mean_tokens(url, model)
            versions = cache.per_prompt(url, model)
        missing = [request for name, request in asked.items() if name not in kept]
        # a model counts tokens its own way, so its earlier answers are the best estimate
        tokens = sum(
            mean or len(request["messages"][0]["content"]) / CHARACTERS for request in missing
        )
        # at most: an answer may end before its limit
        tokens_out = sum(request[can["length"]] for request in missing)
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
        line = f"{self.name}: {c['rows']:,} rows, {c['replies']:,} distinct; "
        line += f"{c['kept']:,} answers kept, {c['calls']:,} to pay, about {c['tokens']:,} tokens"
        priced = self.settings.price_in + self.settings.price_out
        line += f", ${c['dollars']:.2f}" if priced else "; price_in and price_out are not set"
        if c["calls"] and c["other_prompts"]:
            line += f"; {c['other_prompts']:,} answers to other prompts are kept, "
            line += "but of no use to this one"
        return line

    def _judge(
        self, cache: Cache, pairs: list[tuple], progress: Progress | None
    ) -> dict[tuple, tuple]:
        """Judgements (`probabilities.columns`) by pair.

        By log-probabilities, and by votes where there are none to go by.
        """
        can = self._capabilities(cache) if pairs else CAPABILITIES
        found = {}
        if can["logprobs"]:
            given = self._answers(cache, pairs, can, False, progress)
            read = {pair: by_tokens(answer, self.labels) for pair, (answer,) in given.items()}
            found = {p: (*row, _names(given[p])) for p, row in read.items() if row}
        # also where log-probabilities were mostly of other tokens
        rest = [pair for pair in pairs if pair not in found]
        voted = self._answers(cache, rest, can, True, progress)
        return found | {p: (*by_votes(a, self.labels), _names(a)) for p, a in voted.items()}

    def _any_label(self, found: dict[tuple, tuple]) -> None:
        """Raise ServerError if not one of many replies has a label: that is not their fault."""
        statuses = Counter(row[4] for row in found.values())
        # a few replies without a label say something of the replies, many of the judge
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

    def _answers(self, cache, pairs, can, voting, progress) -> dict[tuple, list[dict]]:
        """All answers on each pair, kept or given; one that is rejected is {"rejected": reason}."""
        asked = list(self._requests(pairs, can, voting))
        requests = {name: request for _, name, request in asked}
        send = client.ask
        if self.settings.batch:
            send = partial(batches.ask, cache=cache, purpose=self.name)
        how = self.settings, cache, self.study, progress
        try:
            kept = ask_missing(requests, *how, prompt=self.version, send=send)
        except RejectsAll:  # it may be another server than before at the same address
            cache.keep_capabilities(self.settings.base_url, self.settings.model, None)
            raise
        answers = {}
        for pair, name, _ in asked:
            # the votes on one pair have keys of their own and come together here
            answers.setdefault(pair, []).append(kept[name])
        return answers

    def _requests(
        self, pairs: Iterable[tuple], can: dict, voting: bool
    ) -> Iterator[tuple[tuple, str, dict]]:
        """(pair, key, request) for each answer that is wanted."""
        for pair in pairs:
            text = self.prompt.text(*pair, self.order)
            for number in range(self.settings.votes if voting else 1):
                request = capabilities.request(
                    self.settings, text, can, voting, number, self.labels
                )
                yield pair, request_key(self.settings.base_url, request, number), request

    def _capabilities(self, cache: Cache) -> dict:
        """What the server can do, asked once and kept."""
        # a wrong address should show soon
        soon = self.settings.model_copy(update={"retries": min(2, self.settings.retries)})

        def ask_once(request: dict) -> dict:
            # what is spent is read again for each sample, lest several exceed the budget
            return client.ask_once(request, soon, Spending.kept_in(cache, self.study, soon))

        text = self.prompt.text(*SAMPLE)
        return capabilities.find(cache, self.settings, text, ask_once, self.labels)


def load_api_judge(study: Study) -> ApiJudge | None:
    """The API judge of a study; None if it has none."""
    return ApiJudge(study.judge.api, study.name) if study.judge.api else None


def _names(answers: list[dict]) -> str | None:
    """The names under which answers came."""
    return " | ".join(sorted({a["model"] for a in answers if a.get("model")})) or None


def _pairs(responses: pd.DataFrame) -> list[tuple[str, str]]:
    # sorted, so that requests leave in the same order every time
    return sorted(set(zip(responses["prompt"], responses["response"], strict=True)))
