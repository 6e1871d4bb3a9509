"""What a server is able to do, found out by asking it, and a request for a label that it can take.

Servers that speak OpenAI's chat completions differ in what they know of them, and none says so
beforehand. So everything is asked for, and what the server complains of is given up, once; what was
found is kept in the cache.
"""

from collections.abc import Callable

from vd.servers.answers import label_in_json
from vd.servers.client import Rejected
from vd.servers.database import Cache
from vd.servers.response import ServerError
from vd.stances import STANCES
from vd.study.servers import ApiJudgeSettings

CAPABILITIES = {  # what a server may be able to do; only what it will not take is given up
    "logprobs": 20,  # tokens with log-probabilities
    "structured": True,  # answers that follow a JSON schema
    "length": "max_tokens",  # newer models take max_completion_tokens
    "temperature": True,
    "seed": True,
}
# room for a label in JSON or among a few words
VOTE_TOKENS = 16


def schema(labels: tuple[str, ...]) -> dict:
    """Of an answer that is one of these labels."""
    # the name is a part of requests whose answers were paid for
    return {
        "name": "stance",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(labels)}},
            "required": ["label"],
            "additionalProperties": False,
        },
    }


def request(
    settings: ApiJudgeSettings,
    text: str,
    capabilities: dict,
    voting: bool,
    number: int = 0,
    labels: tuple[str, ...] = STANCES,
) -> dict:
    """The body of a request: one token with its log-probabilities, or vote number `number`.

    One message of the user, since not every chat template knows a system role.
    """
    body = {"model": settings.model, "messages": [{"role": "user", "content": text}]}
    body[capabilities["length"]] = VOTE_TOKENS if voting else 1
    if capabilities["temperature"]:
        body["temperature"] = settings.vote_temperature if voting else settings.temperature
    if capabilities["seed"]:
        body["seed"] = settings.seed + number  # else all votes would be the same one
    if voting and capabilities["structured"]:
        body["response_format"] = {"type": "json_schema", "json_schema": schema(labels)}
    if not voting:
        body |= {"logprobs": True, "top_logprobs": capabilities["logprobs"]}
    return body


def kept(cache: Cache, settings: ApiJudgeSettings) -> dict | None:
    """What the server was found able to do; None if that is not known, or cannot be read."""
    found = cache.capabilities(settings.base_url, settings.model)
    # it may be of an older version, or edited by hand; then it is found out anew
    if not isinstance(found, dict) or _types(found) != _types(CAPABILITIES):
        return None
    return found if found["length"] in ("max_tokens", "max_completion_tokens") else None


def find(
    cache: Cache,
    settings: ApiJudgeSettings,
    text: str,
    ask_once: Callable[[dict], dict],
    labels: tuple[str, ...] = STANCES,
) -> dict:
    """What the server can do, see `CAPABILITIES`: as kept, else by samples of `text`, then kept.

    `ask_once` answers one request, and raises Rejected. Raises ServerError if the server rejects
    the request for what is none of these.
    """
    if found := kept(cache, settings):
        return found
    # one process finds out, lest several pay for it at the same time
    with cache.alone():
        found = dict(CAPABILITIES)
        # some servers take the key logprobs and leave it out of the answer
        if not _sample(settings, text, found, False, ask_once, labels)["tokens"]:
            found["logprobs"] = 0
            said = _sample(settings, text, found, True, ask_once, labels)["content"]
            # many servers take a schema without heeding it
            found["structured"] = label_in_json(said, labels) is not None
        cache.keep_capabilities(settings.base_url, settings.model, found)
    return found


def _sample(settings, text: str, capabilities: dict, voting: bool, ask_once, labels) -> dict:
    """An answer to a sample request; what the server rejects is removed from `capabilities`."""
    # every round gives something up, so this ends
    while voting or capabilities["logprobs"]:
        try:
            return ask_once(request(settings, text, capabilities, voting, labels=labels))
        except Rejected as error:
            if not _remove(capabilities, str(error)):
                raise ServerError(f"{settings.base_url}: {error}") from None
    # log-probabilities were given up: there is nothing to look for in an answer
    return {"tokens": None}


def _remove(capabilities: dict, said: str) -> bool:
    """Give up what a server complains of; False if it complains of something else."""
    if "logprobs" in said and capabilities["logprobs"]:
        # some servers give five
        capabilities["logprobs"] = 5 if capabilities["logprobs"] > 5 else 0
    elif "max_tokens" in said and capabilities["length"] == "max_tokens":
        capabilities["length"] = "max_completion_tokens"
    elif ("response_format" in said or "json_schema" in said) and capabilities["structured"]:
        capabilities["structured"] = False
    else:
        named = [name for name in ("temperature", "seed") if name in said and capabilities[name]]
        capabilities |= dict.fromkeys(named, False)
        return bool(named)
    return True


def _types(found: dict) -> dict:
    return {name: type(value) for name, value in found.items()}
