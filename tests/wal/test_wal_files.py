"""Where fsync is worth something."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxist.errors import ConfigError
from proxist.wal import files, fsync_is_meaningful, list_logs, list_shards, require_fsync

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /dev rw - devtmpfs dev rw
24 22 0:30 / /mnt/ram rw - tmpfs tmpfs rw,size=1k
25 24 8:1 / /mnt/ram/disk rw - xfs /dev/sdb rw
26 22 0:31 / /mnt/with\\040space rw - ramfs ramfs rw
27 22 0:32 / /mnt/layers rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
28 22 0:33 / /mnt/fast rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c,volatile
29 22 0:34 / /mnt/hidden rw - tmpfs tmpfs rw
30 29 8:2 / /mnt/hidden rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/srv/data", None),
        ("/mnt/ram", "/mnt/ram is tmpfs"),
        ("/mnt/ram/data", "/mnt/ram is tmpfs"),
        ("/mnt/ram/disk/data", None),
        ("/mnt/ramparts", None),
        ("/mnt/with space/data", "/mnt/with space is ramfs"),
        ("/mnt/layers/data", None),
        ("/mnt/fast/data", "/mnt/fast is an overlay mounted volatile"),
        ("/mnt/hidden/data", None),
    ],
)
def test_only_memory_and_volatile_overlays_are_refused(tmp_path: Path, path: str, why: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert files._why_void(Path(path), table) == why


def test_no_mount_table_means_no_objection(tmp_path: Path) -> None:
    assert files._why_void(tmp_path, tmp_path / "absent") is None


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no /dev/shm here")
def test_shared_memory_is_no_disk() -> None:
    assert not fsync_is_meaningful("/dev/shm/proxist")
    with pytest.raises(ConfigError, match=r"Durability 'disk' of table 'trades' .* /dev/shm is tmpfs"):
        require_fsync("/dev/shm/proxist", "table 'trades'")


def test_listing_passes_over_what_is_not_a_log(tmp_path: Path) -> None:
    assert list_shards(tmp_path) == []
    for name in ("wal/10/2", "wal/10/11", "wal/10/3.new", "wal/9", "wal/junk"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "wal/10/7").write_text("a file")
    assert list_shards(tmp_path) == [9, 10]
    assert [log.epoch for log in list_logs(tmp_path / "wal/10")] == [2, 11]
