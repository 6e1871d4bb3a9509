"""The key to a server: it goes there where nobody can overhear it, and no part of it is shown."""

import pandas as pd
import pydantic
import pytest
import yaml
from api_server import KEY, ApiServer
from test_api_judge import assert_right, judge, replies

from vd import paths
from vd.recipes.writers import ServerWriter
from vd.servers import batches, secret
from vd.servers.client import ServerError
from vd.servers.secret import for_server, key_fault
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.servers import ServerSettings
from vd.study.settings import RecipeSettings, WriterSettings

QUOTES = {
    "whole": "no, {key}",
    "cut at the end of what is passed on": "x" * 285 + " {key}",
    "prefix": "no, {key:.9}***",
    "ends": "Incorrect key: {key:.7}...{tail}",
    "over lines": "no, {key:.10}\n{rest}",
    "in capitals": "no, {upper}",
}


@pytest.fixture
def server(server, monkeypatch):
    monkeypatch.setattr(batches, "POLL", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return server


def assert_hidden(text, without=""):
    """No part of the key of four characters or more is in a text."""
    text = text.replace(without, "").lower()
    assert not [KEY[n : n + 4] for n in range(len(KEY) - 3) if KEY[n : n + 4] in text]


def chain(error):
    """An error and all that it came from."""
    found = []
    while error and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
@pytest.mark.parametrize("status", [500, 418, 503, 404, 401])
def test_no_part_of_the_key_is_in_an_error_nor_in_what_it_came_from(server, quote, status):
    said = quote.format(key=KEY, tail=KEY[-4:], rest=KEY[10:], upper=KEY.upper())
    server.fault = lambda n, request: (status, said) if n > 1 else None
    with pytest.raises(ServerError) as error:
        judge(server, retries=0, max_in_flight=1).judge(replies(3))
    for link in chain(error.value):
        assert_hidden(f"{link} {link!r} {link.args}", server.url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
@pytest.mark.parametrize("batch", [False, True])
def test_no_part_of_the_key_is_in_a_rejection_nor_in_an_answer(server, quote, batch):
    said = quote.format(key=KEY, tail=KEY[-4:], rest=KEY[10:], upper=KEY.upper())
    body = {"error": {"message": said}}
    server.structured = False

    def fault(number, request):
        return (400, said) if "Reply 1." in str(request) else ("say", f"support {KEY}")

    def line(request, batch):
        rejected = {"response": {"status_code": 400, "body": body}}
        return rejected if "Reply 1." in str(request) else None

    server.fault, server.line_fault = fault, line
    judged = judge(server, batch=batch, votes=1).judge(replies(3))
    assert judged["status"].tolist() == ["ok", "rejected", "ok"]
    assert_hidden(judged.drop(columns="base_url").to_csv())
    kept = b"".join(file.read_bytes() for file in paths.cache().iterdir())
    assert KEY.encode() not in kept and KEY[:12].encode() not in kept


def test_white_space_around_the_key_is_no_part_of_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    assert_right(replies(2), judge(server).judge(replies(2)))
    assert set(server.keys) == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "key", [f"{KEY[:9]}\n{KEY[9:]}", f"Bearer {KEY}", f"{KEY}\u00e9", f"{KEY}\u2026", f"{KEY}\x07"]
)
def test_what_can_be_no_key_is_said_before_anything_is_sent(server, monkeypatch, tmp_path, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    writer = WriterSettings(model="m", base_url=server.url)
    writer = ServerWriter("mine", RecipeSettings(recipe="synthetic_pairs", writer=writer), "v")
    asked = pd.DataFrame({"prompt_id": ["a"], "prompt": [f"Why {key!r}?"]})
    for ask in (
        lambda: judge(server).judge(replies(1)),
        lambda: judge(server, batch=True).judge(replies(1)),
        lambda: writer.ask(asked),
    ):
        with pytest.raises(
            ServerError, match="OPENAI_API_KEY holds white space or characters that no key has"
        ) as error:
            ask()
        assert_hidden(str(error.value), server.url)
    assert not server.requests


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("https://api.openai.com/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.9.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://[::ffff:127.0.0.1]/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://LOCALHOST./v1", True),
        ("http://me.localhost/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://gpu.example/v1", False),
        ("http://localhost.example/v1", False),
        ("http://10.0.0.7:8000/v1", False),
        ("http://127.0.0.1.example/v1", False),
        ("http://[2001:db8::1]/v1", False),
    ],
)
def test_the_key_goes_over_https_or_to_this_machine(monkeypatch, url, goes):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert for_server(url) == (KEY if goes else "none")
    ServerSettings(model="m", base_url=url)


def test_another_machine_is_asked_without_the_key_and_a_refusal_says_so(server, monkeypatch):
    monkeypatch.setattr(secret, "is_here", lambda url: False)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {KEY}")
    assert_right(replies(2), judge(server).judge(replies(2)))
    assert set(server.keys) == {"Bearer none"}
    server.fault = lambda n, request: 401
    with pytest.raises(ServerError, match=r"key refused \(401\).*; none was sent, since http to"):
        judge(server).judge(replies(3))


def test_a_redirect_is_not_followed_so_nobody_else_gets_the_texts(server):
    other = ApiServer().start()
    secret = other.url.replace("http://", "http://user:pass-word@")
    place = {"Location": f"{secret}/chat/completions?key={KEY}"}
    there = "to http://127.0.0.1/v1/chat/completions;"
    for status in (301, 302, 307, 308):
        server.fault = lambda n, request, status=status: (status, place)
        with pytest.raises(ServerError, match=rf"redirects \({status}\) {there}"):
            judge(server).judge(replies(1))
    other.stop()
    assert not other.requests and len(server.requests) == 4


@pytest.mark.parametrize("location", ["", "http://[", "//", "\\", "?x"])
def test_an_odd_redirect_is_one_line(server, location):
    server.fault = lambda n, request: (302, {"Location": location})
    with pytest.raises(ServerError, match=r"redirects \(302\) to .*; write as base_url where the"):
        judge(server).judge(replies(1))


UNUSABLE = ["socks5://user:pass-word@127.0.0.1:9", "ftp://user:pass-word@x", "http://a:b"]
DEAD = ["http://user:pass-word@127.0.0.1:9", "nonsense.invalid"]


@pytest.mark.parametrize("proxy", [*UNUSABLE, *DEAD])
def test_proxies_do_not_catch_servers_of_this_machine(server, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    assert_right(replies(2), judge(server).judge(replies(2)))
    assert_right(replies(4), judge(server, batch=True).judge(replies(4)))


@pytest.mark.parametrize("proxy", [*UNUSABLE, *DEAD])
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(server, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    said = (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY or SSL_CERT_FILE cannot be used"
        if proxy in UNUSABLE
        else "nobody answers; .* the proxy .HTTPS"
    )
    with pytest.raises(ServerError, match=said) as error:
        judge(server, base_url="https://server.invalid/v1", retries=0).judge(replies(1))
    assert not [link for link in chain(error.value) if "pass-word" in str(link)]


SECRET = [
    "https://user:pass-word@server/v1",
    "https://pass-word@server/v1",
    "https://server/v1?api_key=pass-word",
]
SECRET += ["https://server/v1#pass-word"]
WRONG = [
    "localhost:8000/v1",
    "server",
    "",
    "ftp://server/v1",
    "https://",
    "https://a b/v1",
    " https://a/v1",
    "https://a/v1\n",
]
WRONG += ["https://[::1/v1", "https://a:port/v1", "https://a/v1/chat/completions"]
WRONG += [
    "http://256.1.1.1/v1",
    "http://127.1/v1",
    "http://[1:2]/v1",
    "http://a:99999",
    "http://a:0",
]


@pytest.mark.parametrize("url", [*SECRET, *WRONG])
def test_an_address_with_a_secret_or_none_at_all_is_a_mistake_in_the_study(place, url):
    study = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    study["judge"]["api"] = {"model": "m", "base_url": url}
    (place / "configs" / "mine.yaml").write_text(yaml.safe_dump(study))
    said = r"mine.yaml: judge.api.base_url: .*(write|leave out)"
    with pytest.raises(StudyError, match=said) as error:
        load_study("mine")
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(pydantic.ValidationError, match="base_url") as direct:
        WriterSettings(model="m", base_url=url)
    for link in (*chain(error.value), *chain(direct.value)):
        assert "pass-word" not in str(link)


def test_the_key_in_the_address_is_refused_without_showing_it(server):
    with pytest.raises(ServerError, match="base_url holds the key, and it is written") as error:
        judge(server, base_url=f"{server.url}/{KEY}").judge(replies(1))
    assert_hidden(str(error.value))


def test_openai_wants_a_key_however_its_address_is_written(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for url in (
        "https://api.openai.com/v1",
        "https://api.openai.com/v1/",
        "https://API.openai.com:443/v1",
    ):
        assert "set the environment variable OPENAI_API_KEY" in key_fault(url)
    assert key_fault("http://localhost/v1") is None
