"""The run directory: sockets and epoch pages of one data directory on this host, for this user's eyes only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from proxist.config import default_run_dir
from proxist.errors import ConfigError


def prepare_run_dir(data_dir: Path, run_dir: Path | None = None) -> Path:
    """Create the run directory of `data_dir` (or `run_dir`), mode 0700, and return it.

    Raises ConfigError where it belongs to another user or others may enter: the right to attach is the right to
    reach its sockets.
    """
    path = default_run_dir(data_dir) if run_dir is None else run_dir
    parents = [path] if run_dir is not None else [path.parent, path]
    for directory in parents:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(
                f"The run directory {directory} must be a directory of this user with mode 0700. "
                "Remove it, correct its mode, or set another `run_dir`."
            )
    return path
