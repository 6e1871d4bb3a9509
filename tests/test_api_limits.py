"""Interruptions, time limits, pauses: what has not left never leaves, nothing waits for ever."""

import asyncio
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from api_server import KEY
from jupyter_client.manager import start_new_kernel
from test_api_judge import asked, assert_right, judge, replies

from vd import paths
from vd.servers import pace
from vd.servers.client import ServerError
from vd.servers.database import Cache

CODE = """
import sys, threading, time
sys.path.insert(0, 'tests')
from test_api_judge import *
server = type('', (), {'url': '%s'})
def work(): judge(server, max_in_flight=4, timeout=30.0).judge(replies(500))
"""
IN_A_THREAD = "threading.Thread(target=work).start()\nwhile True: time.sleep(0.1)"


def kept():
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        answers = cache.rows.execute("select count(*) from answers").fetchone()[0]
        return answers, cache.spent("study")[0]


def until(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def interrupted(server, last, when):
    """Requests that had left, and seconds until its end, of a process that was interrupted."""
    command = [sys.executable, "-c", CODE % server.url + last]
    process = subprocess.Popen(command, cwd=paths.ROOT, stderr=subprocess.PIPE)
    until(when)
    process.send_signal(signal.SIGINT)
    sent, start = len(server.requests), time.monotonic()
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode and "KeyboardInterrupt" in said and KEY not in said
    return sent, time.monotonic() - start


@pytest.mark.parametrize("last", ["work()", IN_A_THREAD], ids=["direct", "in a thread"])
def test_an_interruption_stops_what_has_not_left_and_keeps_what_has(server, last):
    server.latency = 0.05
    sent, _ = interrupted(server, last, lambda: len(server.requests) > 60)
    more = 4 if last == "work()" else 12  # another thread sees that the main one has ended
    assert len(server.requests) <= sent + more
    answers, calls = kept()
    assert answers == len(server.requests) - 1 and calls == len(server.requests)
    server.latency = 0
    assert_right(replies(500), judge(server).judge(replies(500)))
    assert len(server.requests) == 501, "nothing was paid for twice"


def test_an_interruption_ends_a_pause_that_the_server_asked_for(server):
    server.fault = lambda n, request: (429, {"Retry-After": "600"}) if n > 20 else None
    sent, seconds = interrupted(server, "work()", lambda: len(server.requests) > 20)
    assert seconds < 10 and len(server.requests) <= sent + 4 and kept()[0] == 19


def test_an_interruption_does_not_wait_for_ever_for_what_is_in_flight(server):
    server.fault = lambda n, request: "stall" if n > 20 else None
    last = "from vd.servers import interruption; interruption.GRACE = 1\nwork()"
    sent, seconds = interrupted(server, last, lambda: len(server.requests) == 24)
    assert seconds < 8 and len(server.requests) == sent == 24
    assert kept() == (19, 24), "what may have been charged is counted"


def test_the_stop_button_of_a_notebook_stops(server):
    server.latency = 0.05
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(paths.ROOT))
    try:
        asked_for = client.execute(CODE % server.url + "work()")
        until(lambda: len(server.requests) > 60)
        manager.interrupt_kernel()
        sent = len(server.requests)
        reply = client.get_shell_msg(timeout=30)
        while reply["parent_header"]["msg_id"] != asked_for:
            reply = client.get_shell_msg(timeout=30)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert len(server.requests) <= sent + 4 and kept()[0] == len(server.requests) - 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_it_works_where_an_event_loop_runs_already(server):
    async def notebook():
        return judge(server).judge(replies(5))

    assert_right(replies(5), asyncio.run(notebook()))


def test_a_server_that_dribbles_holds_no_request_longer_than_its_limit(server):
    server.fault = lambda n, request: "dribble" if n in (2, 3) else None
    start = time.monotonic()
    assert_right(replies(4), judge(server, timeout=0.5).judge(replies(4)))
    assert time.monotonic() - start < 5 and len(asked(server)) == 6
    server.fault = lambda n, request: "dribble"
    with pytest.raises(ServerError, match=r"no answer within 0\.5 s; raise timeout"):
        judge(server, timeout=0.5, retries=1).judge(replies(2, start=50))


@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": said} for said in ("-5", "nan", "-inf", "soon", "", "0", "1e", "Wed, 99 Foo")]
    + [{"Retry-After": said} for said in ("٣", "2001-01-01")]
    + [{"retry-after-ms": said} for said in ("soon", "-1", "nan", "30")],
    ids=str,
)
def test_odd_wishes_to_wait_are_ordinary_pauses(server, headers):
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    server.fault = lambda n, request: (429, headers) if n in (2, 4) else None
    start = time.monotonic()
    assert_right(replies(3), judge(server).judge(replies(3)))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("wish", ["7200", "inf", "1e400", "date", "99999999999999999999"])
def test_who_is_asked_to_wait_longer_than_an_hour_is_told_when_to_come_back(server, wish):
    then = datetime.now(UTC) + timedelta(hours=2)
    wish = format_datetime(then, usegmt=True) if wish == "date" else wish
    server.fault = lambda n, request: (429, {"Retry-After": wish}) if n > 2 else None
    start = time.monotonic()
    with pytest.raises(
        ServerError,
        match=r"asks to be left alone \(429\); come back after \d{4}-\d\d-\d\d \d\d:\d\d;",
    ) as error:
        judge(server, max_in_flight=1).judge(replies(3))
    assert time.monotonic() - start < 2 and len(server.requests) == 3
    if wish in ("7200", "date"):
        said = str(error.value).split("come back after ")[1][:16]
        said = datetime.strptime(said, "%Y-%m-%d %H:%M").astimezone()
        assert abs(said - then) < timedelta(minutes=2)


RESETS = ["", "soon", "1..2s", "nan", "inf", "-5s", "2026-11-23T10:00:00Z", "20h0m0s", "٣s"]


@pytest.mark.parametrize("remaining", ["0", " 0", "-1", "none", ""])
@pytest.mark.parametrize("reset", RESETS)
def test_odd_rate_limits_are_a_second_or_nothing(remaining, reset):
    headers = {"x-ratelimit-remaining-requests": remaining, "x-ratelimit-reset-requests": reset}
    assert pace.until_renewal(headers) in (0.0, 1.0)


def test_rate_limits_in_every_way_to_write_durations():
    for reset, seconds in {
        "6m0s": 360,
        "1.5s": 1.5,
        "20ms": 0.02,
        "1h": 3600,
        "12": 12,
        "1m0.5s": 60.5,
    }.items():
        headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset}
        assert pace.until_renewal(headers) == pytest.approx(seconds)
