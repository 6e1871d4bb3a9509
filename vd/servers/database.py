"""What a server has answered, kept for good: nothing that was paid for is asked again.

One SQLite file holds every answer under a hash of what was asked, from the moment it arrives; a
process that is killed loses only requests in flight. It also holds what each study has spent, what
servers are able to do, and which batches were collected. A kept answer that cannot be read, or that
another model gave, counts as not there.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from vd.servers.answers import is_from, kept_part

PATIENCE = 60.0  # seconds to wait for another process that is writing
TABLES = {  # columns by table; one that an older file lacks is added
    "answers": "key text primary key, base_url, model, prompt, content, tokens_in, tokens_out, at",
    "spent": "study, base_url, model, calls integer, dollars real, at",
    "abilities": "base_url, model, found, at",
    "batches": "id text primary key, at",
}
MOVE = "set VD_CACHE to a folder of yours"
DAMAGED = "it is damaged; put a copy back, or move it away (then all is asked, and paid for, anew)"
FIXES = {  # by the beginning of SQLite's names of errors
    "SQLITE_BUSY": "another process keeps writing to it; wait for it, or end it",
    "SQLITE_CANTOPEN": f"it cannot be opened or made; {MOVE}",
    "SQLITE_READONLY": f"it cannot be written; {MOVE}",
    "SQLITE_FULL": "the disk is full; make room and run again",
    "SQLITE_IOERR": "the disk cannot be read or written; set VD_CACHE to a folder on another",
    "SQLITE_ERROR": "it was made by another version or program; move it away",
}


class CacheError(RuntimeError):
    """The file of kept answers cannot be used: which one, why, and what to do."""


def request_key(base_url: str, request: dict, number: int = 0) -> str:
    """Hash of a request to a server; `number` tells apart votes, which ask the same again."""
    # sorted keys: the order in which a request was put together is no difference
    content = json.dumps([base_url, request, number], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class Cache:
    """The SQLite file; use it as a context manager. Methods may be called from one other thread.

    A file that may not be written is read all the same. Every method raises CacheError.
    """

    def __init__(self, file: Path):
        self.file, self.writable = file, _can_write(file)
        if self.writable:
            self._open(f"{file}")
            self._execute("pragma journal_mode = wal")  # readers do not wait for the writer
            # survives a killed process; a power cut may cost the last rows
            self._execute("pragma synchronous = normal")
            # before anything is asked: a file that cannot be prepared cannot keep an answer
            self._prepare()
        else:
            self._open_to_read()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.rows.close()

    def keep(self, name: str, base_url: str, model: str, prompt: str, answer: dict) -> None:
        """Write down one answer, as `answers.read` gives it, in place of an earlier one."""
        what = json.dumps(answer), answer["tokens_in"], answer["tokens_out"]
        self._write("answers", name, base_url, model, prompt, *what, time.time())

    def keeper(self, base_url: str, model: str, prompt: str) -> Callable[[str, dict], None]:
        """`keep` for the answers of one model to one prompt: a function of key and answer."""
        return lambda name, answer: self.keep(name, base_url, model, prompt, answer)

    def answers(self, names: Iterable[str], settings=None) -> dict[str, dict]:
        """Answers that are there and can be read, by key; with settings, of their model only."""
        # as one JSON text, since SQLite limits the number of parameters
        wanted = "select key, content from answers where key in (select value from json_each(?))"
        rows = self._execute(wanted, json.dumps(list(names)))
        found = {name: answer for name, content in rows if (answer := kept_part(content))}
        if not settings:
            return found
        asked = settings.model, settings.answers_as
        return {name: a for name, a in found.items() if is_from(a["model"], *asked)}

    @contextmanager
    def alone(self):
        """Hold the lock of those who ask; nothing is asked that could not be written down."""
        # SQLite's own lock would stop writers for as long as a server takes to answer
        lock = FileLock(f"{self.file}.lock")
        try:
            held = self.writable and lock.acquire()
        except OSError:
            held = None
        if not held:
            raise CacheError(f"{self.file}: cannot be written, so nothing is asked; {MOVE}")
        with held:
            yield

    def per_prompt(self, base_url: str, model: str) -> dict[str, int]:
        """Number of answers of a model to each version of a prompt."""
        counted = (
            "select prompt, count(*) from answers where base_url = ? and model = ? group by prompt"
        )
        return dict(self._execute(counted, base_url, model))

    def mean_tokens(self, base_url: str, model: str) -> float | None:
        """Mean prompt tokens of a model's answers; None without any."""
        # columns have no type: an older file may hold texts among the numbers
        mean = "select avg(tokens_in) from answers where base_url = ? and model = ?"
        return self._execute(f"{mean} and typeof(tokens_in) = 'integer'", base_url, model)[0][0]

    def spend(self, study: str, base_url: str, model: str, dollars: float, calls: int = 1) -> None:
        """Write down what was sent and what it cost, in dollars."""
        self._write("spent", study, base_url, model, calls, dollars, time.time())

    def spent(self, study: str) -> tuple[int, float]:
        """Calls and dollars of a study so far."""
        total = (
            "select coalesce(sum(calls), 0), coalesce(sum(dollars), 0.0) from spent where study = ?"
        )
        return self._execute(total, study)[0]

    def capabilities(self, base_url: str, model: str) -> dict | None:
        """What the server was found able to do; None if it was never asked."""
        found = "select found from abilities where base_url = ? and model = ? order by at desc"
        rows = self._execute(found, base_url, model)
        try:
            return json.loads(rows[0][0]) if rows else None
        except (ValueError, TypeError):
            return None

    def keep_capabilities(self, base_url: str, model: str, found: dict | None) -> None:
        """Write down what the server is able to do; None to have that found out anew."""
        # the table keeps its old name, so that files of earlier versions are read on
        # the table has no key of its own, so rows would add up
        self._execute("delete from abilities where base_url = ? and model = ?", base_url, model)
        self._write("abilities", base_url, model, json.dumps(found), time.time())

    def is_collected(self, batch: str) -> bool:
        """Whether the answers of a batch are kept already."""
        return bool(self._execute("select 1 from batches where id = ?", batch))

    def collect(self, batch: str) -> None:
        """Write down that the answers of a batch are kept."""
        self._write("batches", batch, time.time())

    def _write(self, table: str, *values) -> None:
        names, marks = ", ".join(_columns(table)), ", ".join("?" * len(values))
        self._execute(f"insert or replace into {table} ({names}) values ({marks})", *values)

    def _open(self, place: str) -> None:
        # autocommit: each answer is a transaction of its own
        # answers are kept from the thread of the event loop, see vd.servers.interruption
        how = {"timeout": PATIENCE, "isolation_level": None, "check_same_thread": False}
        try:
            self.rows = sqlite3.connect(place, uri=place.startswith("file:"), **how)
        except sqlite3.Error as error:
            raise CacheError(f"{self.file}: {_fix(error)}") from None

    def _open_to_read(self) -> None:
        """Open a file that may not be written; the second way if nothing can be made beside it."""
        # immutable comes second: it does not see answers that are in the write-ahead log alone
        for how in ("mode=ro", "immutable=1"):
            try:
                self._open(f"{self.file.absolute().as_uri()}?{how}")
                # SQLite opens a file on its first use only
                return self._execute("select count(*) from answers")
            except CacheError as error:
                failed = error
        raise failed

    def _prepare(self) -> None:
        """Make what is not there yet; a file of an older version gets the columns that it lacks."""
        for table, columns in TABLES.items():
            self._execute(f"create table if not exists {table} ({columns})")
            # a file may be years old; it holds answers that were paid for
            there = {row[1] for row in self._execute(f"pragma table_info({table})")}
            for name, column in _columns(table).items():
                if name not in there:
                    self._execute(f"alter table {table} add column {column}")

    def _execute(self, statement: str, *values) -> list[tuple]:
        try:
            return self.rows.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise CacheError(f"{self.file}: {_fix(error)}") from None


def _columns(table: str) -> dict[str, str]:
    """Columns of a table: name to definition."""
    return {column.split()[0]: column for column in TABLES[table].split(", ")}


def _can_write(file: Path) -> bool:
    """Whether a file and those that SQLite puts beside it can be written, or made."""
    # a set-user-id process is asked for the rights that it acts with
    how = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    places = [file.parent, *(p for p in (file, Path(f"{file}-wal")) if p.exists())]
    return all(os.access(place, os.W_OK, **how) for place in places)


def _fix(error: sqlite3.Error) -> str:
    """What is wrong with a file of answers and what to do about it."""
    name = getattr(error, "sqlite_errorname", "")
    fix = next((fix for begin, fix in FIXES.items() if name.startswith(begin)), DAMAGED)
    return f"{fix} ({error})"
