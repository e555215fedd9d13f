"""The lock on a data directory: two servers on one append-only file would ruin it."""

from __future__ import annotations

import fcntl
from typing import IO

from smarttextgen.launcher.data_dir import DataDir, read_ready_file
from smarttextgen.launcher.errors import DataDirBusyError


def take(data_dir: DataDir) -> IO[str]:
    """Take the directory. Keep the returned file open for as long as it is used.

    The guard shares it, so that the lock outlasts a killed launcher until its Redis has closed its files.

    Raises: DataDirBusyError.
    """
    file = (data_dir.root / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        ready = read_ready_file(data_dir.ready_file)
        where = f" at {ready['url']}" if ready else ""
        raise DataDirBusyError(
            f"A stack is running on {data_dir.root} already{where}. Stop it, or use another --data-dir."
        ) from None
    return file
