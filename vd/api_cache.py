"""What a server has answered, kept for good: nothing that was paid for is asked again.

One SQLite file holds every answer under a hash of what was asked, from the moment it arrives; a process that is killed
loses only requests in flight. It also holds what each study has spent, what servers are able to do, and which batches
were collected.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

SCHEMA = """
create table if not exists answers (key text primary key, base_url, model, prompt, content, tokens_in, tokens_out, at);
create table if not exists spent (study, base_url, model, calls integer, dollars real, at);
create table if not exists abilities (base_url, model, found, at, primary key (base_url, model));
create table if not exists batches (id text primary key, at);
"""


def key(base_url: str, request: dict, number: int = 0) -> str:
    """Hash of a request to a server; `number` tells apart votes, which ask the same again."""
    content = json.dumps([base_url, request, number], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class Cache:
    """The SQLite file; use it as a context manager. Its methods may be called from one other thread."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        # autocommit: each answer is a transaction of its own
        self.rows = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
        self.rows.execute("pragma journal_mode = wal")  # readers do not wait for the writer
        self.rows.execute(
            "pragma synchronous = normal"
        )  # survives a killed process; a power cut may cost the last rows
        self.rows.executescript(SCHEMA)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.rows.close()

    def keep(self, name: str, base_url: str, model: str, prompt: str, answer: dict) -> None:
        """Write down one answer (see vd.api_client) under its key; a second one under the same key replaces it."""
        row = (
            name,
            base_url,
            model,
            prompt,
            json.dumps(answer),
            answer["tokens_in"],
            answer["tokens_out"],
            time.time(),
        )
        self.rows.execute(f"insert or replace into answers values ({', '.join('?' * len(row))})", row)

    def keeper(self, base_url: str, model: str, prompt: str) -> Callable[[str, dict], None]:
        """`keep` for the answers of one model to one prompt: a function of key and answer."""
        return lambda name, answer: self.keep(name, base_url, model, prompt, answer)

    def answers(self, names: Iterable[str]) -> dict[str, dict]:
        """The answers that are there, by key."""
        self.rows.execute("create temp table if not exists wanted (key text primary key)")
        self.rows.execute("begin")
        self.rows.execute("delete from wanted")
        self.rows.executemany("insert or ignore into wanted values (?)", ((name,) for name in names))
        found = self.rows.execute("select key, content from answers join wanted using (key)").fetchall()
        self.rows.execute("commit")
        return {name: json.loads(content) for name, content in found}

    def per_prompt(self, base_url: str, model: str) -> dict[str, int]:
        """Number of answers of a model to each version of a prompt."""
        counted = "select prompt, count(*) from answers where base_url = ? and model = ? group by prompt"
        return dict(self.rows.execute(counted, (base_url, model)).fetchall())

    def mean_tokens(self, base_url: str, model: str) -> float | None:
        """Mean prompt tokens of a model's answers; None without any."""
        mean = "select avg(tokens_in) from answers where base_url = ? and model = ?"
        return self.rows.execute(mean, (base_url, model)).fetchone()[0]

    def spend(self, study: str, base_url: str, model: str, dollars: float, calls: int = 1) -> None:
        """Write down what was sent and what it cost, in dollars."""
        self.rows.execute(
            "insert into spent values (?, ?, ?, ?, ?, ?)", (study, base_url, model, calls, dollars, time.time())
        )

    def spent(self, study: str) -> tuple[int, float]:
        """Calls and dollars of a study so far."""
        total = "select coalesce(sum(calls), 0), coalesce(sum(dollars), 0.0) from spent where study = ?"
        return self.rows.execute(total, (study,)).fetchone()

    def abilities(self, base_url: str, model: str) -> dict | None:
        """What the server was found able to do; None if it was never asked."""
        row = self.rows.execute(
            "select found from abilities where base_url = ? and model = ?", (base_url, model)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def keep_abilities(self, base_url: str, model: str, found: dict) -> None:
        """Write down what the server is able to do."""
        self.rows.execute(
            "insert or replace into abilities values (?, ?, ?, ?)", (base_url, model, json.dumps(found), time.time())
        )

    def is_collected(self, batch: str) -> bool:
        """Whether the answers of a batch are kept already."""
        return bool(self.rows.execute("select 1 from batches where id = ?", (batch,)).fetchone())

    def collect(self, batch: str) -> None:
        """Write down that the answers of a batch are kept."""
        self.rows.execute("insert or ignore into batches values (?, ?)", (batch, time.time()))
