"""The write-ahead log: what makes an acknowledged row survive.

In: batches that ingest has validated, as records (`encode_body`, `rows_record`, `cut_record`, `persisted_record`),
appended by a `LogWriter`, one per open log. Out: the same records, to recovery (`recover_log`) after a start, and to
the persister's follow stream (`LogReader`) at any time.

When data is durable: on return of `LogWriter.append` the records are written to the file (level `os`: they survive a
crash of the process); on return of `LogWriter.sync` everything appended before the call is on disk (level `disk`: they
survive a loss of power). Byte format: docs/formats/wal.md.
"""

from proxist.wal.chain import LogPath, list_logs, list_segments, list_shards, log_directory, shard_directory
from proxist.wal.files import Files, OsFiles, fsync_is_meaningful, require_fsync, write_durably
from proxist.wal.lock import DirectoryLock
from proxist.wal.mark import LogBegin, LogMark
from proxist.wal.reader import LogReader
from proxist.wal.record import (
    Record,
    RecordIn,
    RecordKind,
    cut_record,
    decode_body,
    encode_body,
    hash_content,
    persisted_record,
    rows_record,
)
from proxist.wal.recover import RecoveredLog, TornTail, recover_log
from proxist.wal.removal import remove_gone, remove_log, remove_segments
from proxist.wal.segments import Segment, segments
from proxist.wal.volume import BALLAST_BYTES, SEGMENT_BYTES, Volume
from proxist.wal.writer import LogWriter

__all__ = [
    "BALLAST_BYTES",
    "SEGMENT_BYTES",
    "DirectoryLock",
    "Files",
    "LogBegin",
    "LogMark",
    "LogPath",
    "LogReader",
    "LogWriter",
    "OsFiles",
    "Record",
    "RecordIn",
    "RecordKind",
    "RecoveredLog",
    "Segment",
    "TornTail",
    "Volume",
    "cut_record",
    "decode_body",
    "encode_body",
    "fsync_is_meaningful",
    "hash_content",
    "list_logs",
    "list_segments",
    "list_shards",
    "log_directory",
    "persisted_record",
    "recover_log",
    "remove_gone",
    "remove_log",
    "remove_segments",
    "require_fsync",
    "rows_record",
    "segments",
    "shard_directory",
    "write_durably",
]
