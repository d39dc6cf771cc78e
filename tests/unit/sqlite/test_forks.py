"""A process that forks while databases are open and busy."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path

from specstar.backends.sqlite.database import Database


class Add:
    def __init__(self, who: str) -> None:
        self.who = who

    def run(self, database: Database) -> None:
        database.execute("INSERT INTO log VALUES (?)", (self.who,))


def child(inherited: Database, path: str) -> None:
    inherited.close()
    database = Database.open_file(path, busy_timeout=20)
    for _ in range(20):
        assert database.write([Add("child")]) == [None]
    database.close()


def fork(inherited: Database, path: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            child(inherited, path)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
            os._exit(1)
    return pid


def test_parent_and_children_write_on_unharmed(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sqlite3")
    database = Database.open_file(path, busy_timeout=20)
    with database.transaction():
        database.execute("CREATE TABLE log (who TEXT)")
    stop = threading.Event()
    written = 0

    def work() -> None:
        nonlocal written
        # With a pause: SQLite's lock knows no queue, and a writer without one would starve the children.
        while not stop.wait(0.002):
            assert database.write([Add("parent")]) == [None]
            written += 1

    worker = threading.Thread(target=work)
    worker.start()
    children = [fork(database, path) for _ in range(5)]
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    stop.set()
    worker.join()
    assert statuses == [0] * 5
    database.close()
    again = Database.open_file(path, busy_timeout=5)
    assert again.execute("PRAGMA integrity_check") == [("ok",)]
    assert dict(again.execute("SELECT who, count(*) FROM log GROUP BY who")) == {"parent": written, "child": 100}
    again.close()
