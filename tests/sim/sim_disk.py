"""The disk of a simulated node: the file layer of `proxist.testing`, driven by the seed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

import greenlet
from sim_threads import Sim

from proxist.testing.faulty_files import FaultyFiles


@dataclass
class DiskFaults:
    """Chances per call of the disk."""

    flush_s_max: float = 0.002
    slow_flush: float = 0.0
    """A flush that takes longer than a lease lasts."""
    error: float = 0.0
    power: float = 0.0
    """The machine loses power in the middle of the call."""
    stop: float = 0.0
    """The process is killed in the middle of the call."""


SLOW_FLUSH_S = 8.0


class SimDisk(FaultyFiles):
    """What one node's directory holds. `faults` are shared by all disks of a cluster."""

    def __init__(self, sim: Sim, root: Path, faults: DiskFaults) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root)
        self.sim, self.faults = sim, faults
        self.lost_power = False
        self.before = self._enter

    def image(self, random: Random) -> SimDisk:
        """The disk as a start after a loss of power finds it now."""
        after = self.root.with_name(f"{self.root.name}x")
        self.crash_image(after, random)
        return SimDisk(self.sim, after, self.faults)

    def datasync(self, fd: int) -> None:
        super().datasync(fd)
        if fd not in self._open:  # opened to be read, as recovery does: its flush counts all the same
            place = self._place(Path(f"/proc/self/fd/{fd}").readlink())
            if place is not None:
                place.directory.seen[place.name].flush()  # type: ignore[union-attr]

    def _enter(self, operation: str, path: Path | None) -> None:
        sim, faults = self.sim, self.faults
        if sim.current is None:
            return
        sim.check_alive()
        process = sim.current.process
        sim.maybe_yield()
        chance = sim.random.random()
        if operation in ("datasync", "sync_directory"):
            sim.pause(faults.flush_s_max)
            if sim.random.random() < faults.slow_flush:
                sim.say(f"{process.name}: a flush takes {SLOW_FLUSH_S} s")
                sim.block(SLOW_FLUSH_S)
        if chance < faults.error:
            sim.say(f"{process.name}: {operation} fails")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if chance < faults.error + faults.power + faults.stop:
            self.lost_power = chance >= faults.error + faults.stop
            sim.say(f"{process.name}: {'power lost' if self.lost_power else 'killed'} in {operation}")
            process.alive = False
            raise greenlet.GreenletExit
