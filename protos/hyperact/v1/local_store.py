"""The SQLite store of MLflow on one machine: service and trainer may both be the first to need it.

The rules:

1. One process at a time makes or migrates the store: two that migrate an empty database at once spoil it. They wait for
   each other at a lock file beside the database.
2. A database is made under another name and renamed when it is whole. A process that is killed meanwhile leaves nothing
   that anybody would open; who comes next begins anew.
"""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

prefix = "sqlite:///"
_Store = TypeVar("_Store")


def open_store(tracking_uri: str, open_at: Callable[[str], _Store]) -> _Store:
    """Open the store at a tracking URI, made first if it is a database that is not there.

    `open_at` opens the store at a URI, makes it if there is none, and must have it whole when it returns. A store that
    is no SQLite file is none of this file's business: it is opened as it is.
    """
    if not tracking_uri.startswith(prefix):
        return open_at(tracking_uri)
    name, question_mark, query = tracking_uri.removeprefix(prefix).partition("?")
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"{path.name}.unfinished")
            for leftover in path.parent.glob(f"{unfinished.name}*"):  # with its journal
                leftover.unlink()
            open_at(f"{prefix}{unfinished}{question_mark}{query}")
            unfinished.rename(path)
        return open_at(tracking_uri)
