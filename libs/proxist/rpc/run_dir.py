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
    default = default_run_dir(data_dir)
    path = default if run_dir is None else run_dir
    for ancestor in reversed(path.parents):
        if not ancestor.exists():
            ancestor.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    for directory in [path.parent, path] if path == default else [path]:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(
                f"The run directory {directory} must be a directory of this user with mode 0700. "
                "Remove it, correct its mode, or set another `run_dir`."
            )
    return path
