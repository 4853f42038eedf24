"""Rewards on disk, found again by their content: the model's identity and the tokens that were scored.

SQLite in WAL mode: several processes may read and write one file, each batch of entries is one transaction, and a
process killed in the middle of one leaves the file as it was before. Not for network file systems, whose locks WAL
cannot trust.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rewardsmith.encoding.template import Rendered
from rewardsmith.errors import FileError

_TABLE = """CREATE TABLE IF NOT EXISTS rewards (
    key BLOB PRIMARY KEY, reward REAL NOT NULL, reward_se REAL, members BLOB
) WITHOUT ROWID"""
_CHUNK = 500  # keys in one query; SQLite takes at most 32,766 variables
_WAIT = 60.0  # seconds to wait for another process's lock
_MARK = 0x52574D31  # SQLite's application id of our files, "RWM1"


class Entry(NamedTuple):
    """What is kept of a score: the reward, its standard error, the members' rewards."""

    reward: float
    reward_se: float | None
    members: tuple[float, ...] | None


class ScoreCache:
    """A file of rewards. Safe to share between processes, threads and models.

    Args:
        path: of the file; made when it is not there.

    Raises:
        FileError: it cannot be opened, or is no cache.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(self.path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            self._file.execute("BEGIN")  # mark and tables of one moment: another process may be making the file
            self._refuse_others()  # before anything is written, the journal's mode included
            self._file.execute("COMMIT")
            self._write_ahead()
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._prepare()
        except sqlite3.Error as error:
            raise FileError(f"{path}: cannot be used as a score cache ({error}); give another file") from error

    def _refuse_others(self) -> None:
        """Leave the database of another program alone."""
        if self._mark() != _MARK and self._file.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            self._file.close()
            raise FileError(f"{self.path}: is a database, but no score cache; give another file")

    def _write_ahead(self) -> None:
        """Turn WAL on. SQLite does not wait for others here, who may be turning it on in the same new file: we do."""
        until = time.monotonic() + _WAIT
        while True:
            try:
                self._file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def _prepare(self) -> None:
        """Make the table of a new file."""
        if self._mark() == _MARK:
            return
        self._file.execute("BEGIN IMMEDIATE")  # two processes may both find a new file
        self._refuse_others()
        self._file.execute(_TABLE)
        self._file.execute(f"PRAGMA application_id={_MARK}")
        self._file.execute("COMMIT")

    def _mark(self) -> int:
        return self._file.execute("PRAGMA application_id").fetchone()[0]

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """Those of ``keys`` that are there."""
        found: dict[bytes, Entry] = {}
        for start in range(0, len(keys), _CHUNK):
            some = list(keys[start : start + _CHUNK])
            query = f"SELECT key, reward, reward_se, members FROM rewards WHERE key IN ({','.join('?' * len(some))})"
            for key, reward, error, members in self._run(query, some):
                found[key] = Entry(reward, error, members and _unpack(members))
        return found

    def put(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Add entries, all or none of them. One that is there stays."""
        rows = [(key, entry.reward, entry.reward_se, entry.members and _pack(entry.members)) for key, entry in entries]
        if not rows:
            return
        with self._lock:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.executemany("INSERT INTO rewards VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", rows)
                self._file.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):  # none was begun, or the file is closed
                    self._file.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise FileError(f"{self.path}: cannot be written ({error})") from error
                raise

    def __len__(self) -> int:
        return self._run("SELECT COUNT(*) FROM rewards", ())[0][0]

    def close(self) -> None:
        """Close the file; nothing is lost when it is not called."""
        with self._lock:
            self._file.close()

    def _run(self, query: str, values: Sequence[bytes]) -> list[tuple]:
        with self._lock:
            try:
                return self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise FileError(f"{self.path}: cannot be read ({error}); if it is damaged, delete it") from error


def key_of(identity: str, rendered: Rendered) -> bytes:
    """32 bytes that stand for the model and for the tokens it reads (and, for mean pooling, where it begins to)."""
    ids = array("q", (rendered.response_start, *rendered.ids)).tobytes()
    return hashlib.sha256(identity.encode() + b"\0" + ids).digest()


def _pack(members: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(members)}d", *members)


def _unpack(members: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(members) // 8}d", members)
