"""Replies of a model behind an OpenAI-compatible server, for models that nobody can load.

It is asked as by a user: one message, the study's temperature. What it would have said with other
words cannot be known, so its replies have no likelihood. Answers are kept for all studies, under a
hash of exactly what was asked and the number of the sample, so none is paid for twice.
"""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from vd import paths
from vd.probing import sampling
from vd.servers.database import Cache, request_key
from vd.servers.kept import ask_missing, message
from vd.study.settings import WriterSettings

ASKED = "reply"  # what answers are kept as


@dataclass(frozen=True)
class Behind:
    """What answers is a server, see `vd.probing.responders.Responder`."""

    settings: WriterSettings
    study: str  # whose budget it is
    has_likelihood: ClassVar[bool] = False

    def respond(self, asked, probing, seed, report=None) -> pd.DataFrame:
        """As a responder. Raises ServerError, BudgetError and CacheError of vd.servers.

        A request that the server will not answer, and one that it withholds, is an empty reply.
        """
        rows = sampling.asked_for(asked, probing.samples)
        keys, requests = [], {}
        for row in rows.itertuples():
            how = probing.temperature, probing.max_new_tokens, seed + row.sample
            body = message(self.settings, row.prompt, *how)
            # servers that know no seed are asked the same several times, for several answers
            keys.append(f"{request_key(self.settings.base_url, body)}/{row.sample}")
            requests[keys[-1]] = body
        with Cache(paths.cache() / "replies.sqlite") as cache:
            answers = ask_missing(requests, self.settings, cache, self.study, prompt=ASKED)
        # by all keys: two prompts may be alike, and are then one request
        replies = pd.DataFrame([_reply(answers[key]) for key in keys])
        if report:
            report(len(rows))
        return rows.join(replies)[sampling.OF_REPLY]


def _reply(answer: dict) -> dict:
    """An answer of a server (see vd.servers.answers) as a reply."""
    if "rejected" in answer:
        return {"response": "", "n_tokens": 0, "finish_reason": "stop"}
    text = (answer["content"] or answer["refusal"] or "").strip()
    finish = "length" if answer["finish_reason"] == "length" else "stop"
    return {"response": text, "n_tokens": answer["tokens_out"] or 0, "finish_reason": finish}
