"""What a response of a server means: an answer, or a failure, in a line that says what to do.

Nothing of the key is in that line, not even where a server quotes a part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies

import openai

from vd.servers import answers, pace, secret
from vd.study.servers import ServerSettings

REJECTED = (400, 413, 422)  # the request itself is at fault
LONGEST_TEXT = 300  # characters of what a server says that are passed on
OPEN = "; none was sent, since http to another machine can be overheard"
PROXIES = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY"


class ServerError(RuntimeError):
    """A server cannot be asked: which one, what it said, what to do. Answers so far are kept."""


class NotFound(ServerError):
    """What was asked for is not there (404): a model, a file, or the way to it."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer, in a few words, and what that means for it and for others."""

    why: str
    retryable: bool = False  # it may help to send it again
    rejected: bool = False  # only this request is at fault
    isolated: bool = False  # maybe only this request is at fault; the next one will show
    charged: bool = False  # the server may have done the work
    not_found: bool = False  # what it asks for is not there (404)
    retry_after: float = 0.0  # seconds that the server asks to wait

    def error(self, settings: ServerSettings) -> ServerError:
        """The same as an error that names the server."""
        kind = NotFound if self.not_found else ServerError
        why = f"{self.why}; answers so far are kept, run again to go on"
        return kind(f"{settings.base_url}: {why}")


def interpret(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    settings: ServerSettings,
    read: Callable,
):
    """What `read` makes of a body, or the Failure with a response. `read` raises Unreadable."""
    if 200 <= status < 300:
        # a proxy's login page, mostly, or the server's home page under a wrong base_url
        if body.lstrip()[:1] == b"<":
            return Failure("a web page, no chat completion; base_url mostly ends in /v1")
        try:
            return read(body)
        except answers.Unreadable as error:
            why, inner = shorten(f"{error}"), error.status
        # it may have been cut on the way: sending it again may help, and was charged perhaps
        if not inner:
            why = f"a broken answer: {why}; base_url mostly ends in /v1"
            return Failure(why, retryable=True, isolated=True, charged=True)
        status = inner
    return _refusal(status, headers, body, settings)


def read_answer(body) -> dict:
    """The answer, as `answers.read` gives it, in a chat completion; the key is blanked."""
    answer = answers.read(answers.parse(body) if isinstance(body, bytes) else body)
    for name in ("content", "refusal", "finish_reason", "model"):
        answer[name] = answer[name] and secret.blank(answer[name], secret.LONG_PART)
    if answer["tokens"]:
        answer["tokens"] = [[secret.blank(t, secret.LONG_PART), p] for t, p in answer["tokens"]]
    return answer


def other_model(answer: dict, settings: ServerSettings) -> Failure | None:
    """The Failure with an answer of another model than the one that was asked for."""
    if answers.is_from(answer["model"], settings.model, settings.answers_as):
        return None
    name = shorten(answer["model"])
    return Failure(
        f"asked for the model {settings.model}, but {name} answered: write model: {name}, or, if "
        f"that is how {settings.model} calls itself, add answers_as: {name}"
    )


def shorten(text: str) -> str:
    """What a server said, in one short line without the key, which is blanked before it is cut."""
    return " ".join(secret.blank(" ".join(text.split())).split())[:LONGEST_TEXT]


def connection_failure(error: openai.APIConnectionError, settings: ServerSettings) -> Failure:
    """The Failure with a connection that could not be made, or broke."""
    chain, cause = [], error
    # libraries wrap the error that tells what happened; causes may form a circle
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    # by name, since the classes are those of whatever HTTP library lies below openai
    kinds, words = {type(e).__name__ for e in chain}, " ".join(map(str, chain))
    if "CERTIFICATE" in words:
        return Failure("its certificate is not trusted; set SSL_CERT_FILE to that of its issuer")
    # what never left costs nothing, and is not counted
    unsent = bool(kinds & {"ConnectError", "ConnectTimeout", "ProxyError"})
    why = "nobody answers" if unsent else "the connection broke"
    fix = "start the server or correct base_url"
    if getproxies() and not secret.is_here(settings.base_url):
        fix = f"start the server, correct base_url or the proxy ({PROXIES})"
    return Failure(f"{why}; {fix}", retryable=True, charged=not unsent)


def _refusal(status: int, headers: Mapping[str, str], body: bytes, settings: ServerSettings):
    """The Failure with a response that is no success."""
    # whole, and not cut before: the key is blanked in it
    said = f"{status}: {shorten(answers.error_text(body)) or 'it does not say why'}"
    # before all else: what is wrong with one request says nothing of the server
    if status in REJECTED:
        return Failure(said, rejected=True)
    wait = pace.retry_after(headers)
    if wait > pace.LONGEST_WAIT:
        when = pace.moment(wait)
        return Failure(f"asks to be left alone ({status}); come back after {when}")
    if why := _permanent(status, headers, body, settings):
        return Failure(why, not_found=status == 404)
    if status == 429:
        said = "too many requests or no credit left (429); lower max_in_flight, wait or pay"
    # a 500 may be due to this one request; other statuses speak of the server
    retryable = status in (408, 409, 425, 429) or status >= 500
    return Failure(said, retryable=retryable, isolated=status == 500, retry_after=wait)


def _permanent(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    settings: ServerSettings,
) -> str | None:
    """Why nothing will be answered, and what to do; None if that may pass.

    What the server says is left out: there it quotes the key, if anywhere.
    """
    if status < 400:
        place = _place(headers.get("location", ""))
        return f"redirects ({status}) to {place}; write as base_url where the server really is"
    if status in (401, 403):
        why = f"key refused ({status}); set OPENAI_API_KEY to a key of this server that may use"
        return f"{why} {settings.model}{'' if secret.may_have_it(settings.base_url) else OPEN}"
    # OpenAI says 429 for an empty account too, which no waiting fills
    if status == 402 or (status == 429 and b"insufficient_quota" in body):
        return f"no credit left ({status}); pay, or ask another server"
    if status == 404:
        why = f"no model '{settings.model}' there (404); correct model, or base_url, which mostly"
        return f"{why} ends in /v1"
    return None


def _place(location: str) -> str:
    """Scheme, server and path of an address; what else is in it may be secret."""
    try:
        address = urlsplit(location)
        server = f"{address.scheme}://{address.hostname}" if address.hostname else ""
    except ValueError:
        return "nowhere"
    return shorten(f"{server}{address.path}") or "nowhere"
