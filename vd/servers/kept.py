"""Ask a server only what has no answer yet: every answer is kept, none is paid for twice."""

from collections.abc import Callable

from vd.servers import client
from vd.servers.budget import Spending
from vd.servers.database import Cache
from vd.store.progress import Progress
from vd.study.servers import ServerSettings
from vd.study.settings import WriterSettings


def message(
    settings: WriterSettings, prompt: str, temperature: float, max_tokens: int, seed: int
) -> dict:
    """The body of a request for one reply: one message of the user, since not every chat template
    knows a system role. A temperature of the server's own has precedence.
    """
    own = settings.temperature
    request = {
        "model": settings.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": temperature if own is None else own,
        "top_p": settings.top_p,
        "max_tokens": max_tokens,
    }
    return request | ({"seed": seed} if settings.sends_seed else {})


def ask_missing(
    requests: dict[str, dict],
    settings: ServerSettings,
    cache: Cache,
    study: str,
    progress: Progress | None = None,
    *,
    prompt: str,
    send: Callable[..., dict[str, str]] = client.ask,
) -> dict[str, dict]:
    """Answers to `requests`, by the same keys: those that `cache` holds, and new ones for the rest.

    `requests` are bodies of chat completions by `database.request_key`; answers are as
    `vd.servers.answers` says, and what the server would not answer is {"rejected": reason}. Kept
    answers of another model than `settings.model` count as missing. New ones are kept as they
    arrive, under `prompt`, the version of what was asked; what they cost counts against the budget
    of `study`, and `progress` counts them. `send` is `client.ask`, or what takes the same
    arguments. With nothing missing neither server nor key is needed. Raises ServerError,
    BudgetError and CacheError.

        with Cache(paths.cache() / "teacher.sqlite") as cache:
            requests = {request_key(settings.base_url, r): r for r in wanted}
            answers = ask_missing(requests, settings, cache, study.name, prompt=VERSION)
    """
    found = cache.answers(requests, settings)
    if len(found) == len(requests):
        return found
    # One process asks at a time: else two would pay for the same answer, and each would
    # know only a part of what is spent and of what is in flight.
    with cache.alone():
        # another process may have asked while this one waited for the lock
        found |= cache.answers(requests.keys() - found.keys(), settings)
        missing = {name: request for name, request in requests.items() if name not in found}
        if not missing:
            return found
        if progress:
            progress.total = len(missing)
        keep = cache.keeper(settings.base_url, settings.model, prompt)
        spending = Spending.kept_in(cache, study, settings)
        rejected = send(missing, settings, keep, spending, progress)
        # read back rather than collected on the way: what is returned is what a later call gets
        found |= cache.answers(missing, settings)
    return found | {name: {"rejected": reason} for name, reason in rejected.items()}
