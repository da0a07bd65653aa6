"""Replay of a log after a crash, and how long a start takes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench import Bench, spec_with
from benchmarks.cluster import connect, running
from benchmarks.feeder import live
from benchmarks.report import at_least
from benchmarks.timing import Run
from proxist.etcd.records import ShardRecord
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import Files, LogWriter
from proxist_ingest.recover import recover_shard
