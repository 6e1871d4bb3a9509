"""Kept answers in files that are read-only, locked, damaged or older.

They serve, or it says why.
"""

import os
import sqlite3
from contextlib import contextmanager

import pytest
from test_api_judge import asked, assert_right, judge, replies

from vd import paths
from vd.servers import database
from vd.servers.database import Cache, CacheError


@contextmanager
def read_only(folder):
    """A folder and its files that may not be written, also where tests run as root."""
    places = [folder, *folder.iterdir()]
    for place in (folder.parent, *folder.parent.parents):
        if place.stat().st_uid == os.getuid() and place.name.startswith("pytest-"):
            place.chmod(0o755)
    folder.parent.chmod(0o755)
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        if not os.access(folder, os.R_OK, effective_ids=True):
            pytest.skip("the folder of these tests is closed to other users, and this one is root")
        yield
    finally:
        if root:
            os.seteuid(0)
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)


def test_a_read_only_cache_serves_what_it_holds_and_asks_nothing_else(server):
    rows = replies(5)
    judge(server).judge(rows)
    paid = len(server.requests)
    with read_only(paths.cache()):
        with pytest.raises(OSError):
            (paths.cache() / "new").touch()
        assert_right(rows, judge(server).judge(rows))
        assert "5 answers kept, 0 to pay" in judge(server).cost_line(rows)
        with pytest.raises(
            CacheError,
            match=r"judgements.sqlite: cannot be written, so nothing is asked; set VD_CACHE",
        ):
            judge(server).judge(replies(6))
        with pytest.raises(CacheError, match="nothing is asked; set VD_CACHE"):
            judge(server, model="other").judge(rows)
    assert len(server.requests) == paid
    assert_right(replies(6), judge(server).judge(replies(6)))


def test_a_read_only_cache_whose_last_answers_are_not_merged_yet(server):
    rows = replies(5)
    judge(server).judge(rows)
    with sqlite3.connect(paths.cache() / "judgements.sqlite") as other:
        other.execute("insert into answers (key) values ('x')")
        other.commit()
        with read_only(paths.cache()):
            assert_right(rows, judge(server).judge(rows))


def test_no_cache_where_none_can_be_made(server, tmp_path):
    (tmp_path / "cache").mkdir()
    with (
        read_only(tmp_path / "cache"),
        pytest.raises(CacheError, match=r"judgements.sqlite: .* set VD_CACHE"),
    ):
        judge(server).judge(replies(1))
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match=r"judgements.sqlite: .* set VD_CACHE"):
        judge(server).judge(replies(1))
    assert not server.requests


def test_a_file_that_somebody_keeps_writing_to(server, monkeypatch):
    judge(server).judge(replies(1))
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    file = paths.cache() / "judgements.sqlite"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(
        CacheError,
        match=r"judgements.sqlite: another process keeps writing to it; wait for it, or end it",
    ):
        judge(server).judge(replies(3))
    other.execute("rollback")
    assert_right(replies(3), judge(server).judge(replies(3)))


DAMAGED = [b"not a database, " * 100, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 8000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file(server, content):
    paths.cache().mkdir()
    file = paths.cache() / "judgements.sqlite"
    file.write_bytes(content)
    with pytest.raises(
        CacheError, match=r"judgements.sqlite: it is damaged; put a copy back, or move it away"
    ) as error:
        judge(server).judge(replies(1))
    assert "\n" not in str(error.value) and not server.requests
    file.unlink()
    judge(server).judge(replies(1))


def test_a_folder_in_its_place(server):
    (paths.cache() / "judgements.sqlite").mkdir(parents=True)
    with pytest.raises(CacheError, match="sqlite: it cannot be opened or made; set VD_CACHE"):
        judge(server).judge(replies(1))


def test_a_file_of_an_older_version_gets_what_it_lacks(server):
    rows = replies(3)
    judge(server).judge(rows)
    file = paths.cache() / "judgements.sqlite"
    with sqlite3.connect(file) as old:
        old.executescript("""
            create table older (key text primary key, content);
            insert into older select key, content from answers;
            drop table answers; alter table older rename to answers;
            drop table spent; drop table batches;
        """)
    assert_right(replies(4), judge(server).judge(replies(4)))
    assert len(asked(server)) == 4
    with Cache(file) as cache:
        assert cache.spent("study")[0] == 1


def test_a_file_of_another_program(server):
    paths.cache().mkdir()
    with sqlite3.connect(paths.cache() / "judgements.sqlite") as other:
        other.execute("create table answers (question, answer)")
    with pytest.raises(
        CacheError,
        match=r"judgements.sqlite: it was made by another version or program; move it away",
    ):
        judge(server).judge(replies(1))
