from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("name", "state", "pid", "version", "shards")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    pid: int
    version: str
    shards: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...

class FlushRequest(_message.Message):
    __slots__ = ("tenant", "table", "wait", "timeout_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    wait: bool
    timeout_ms: int
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ..., wait: _Optional[bool] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class FlushResponse(_message.Message):
    __slots__ = ("shards",)
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, shards: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...

class ListLogsRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("table", "shard", "epoch", "start", "end", "state", "segments", "bytes", "files")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    table: str
    shard: int
    epoch: int
    start: int
    end: int
    state: str
    segments: int
    bytes: int
    files: _containers.RepeatedCompositeFieldContainer[Segment]
    def __init__(self, table: _Optional[str] = ..., shard: _Optional[int] = ..., epoch: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., state: _Optional[str] = ..., segments: _Optional[int] = ..., bytes: _Optional[int] = ..., files: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("number", "first", "bytes", "state", "synced")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    number: int
    first: int
    bytes: int
    state: str
    synced: bool
    def __init__(self, number: _Optional[int] = ..., first: _Optional[int] = ..., bytes: _Optional[int] = ..., state: _Optional[str] = ..., synced: _Optional[bool] = ...) -> None: ...

class ListLogsResponse(_message.Message):
    __slots__ = ("logs",)
    LOGS_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    def __init__(self, logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ...) -> None: ...

class WatermarksRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class Watermark(_message.Message):
    __slots__ = ("table", "shard", "epoch", "floor", "persisted", "end", "t_persisted", "tenant")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    T_PERSISTED_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    table: str
    shard: int
    epoch: int
    floor: int
    persisted: int
    end: int
    t_persisted: int
    tenant: str
    def __init__(self, table: _Optional[str] = ..., shard: _Optional[int] = ..., epoch: _Optional[int] = ..., floor: _Optional[int] = ..., persisted: _Optional[int] = ..., end: _Optional[int] = ..., t_persisted: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatermarksResponse(_message.Message):
    __slots__ = ("watermarks",)
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    watermarks: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, watermarks: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...

class AdvancePersistedRequest(_message.Message):
    __slots__ = ("shard", "epoch", "persisted")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_FIELD_NUMBER: _ClassVar[int]
    shard: int
    epoch: int
    persisted: int
    def __init__(self, shard: _Optional[int] = ..., epoch: _Optional[int] = ..., persisted: _Optional[int] = ...) -> None: ...

class AdvancePersistedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("tenant", "table", "before_ns", "all", "rows")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    before_ns: int
    all: bool
    rows: int
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ..., before_ns: _Optional[int] = ..., all: _Optional[bool] = ..., rows: _Optional[int] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("shards",)
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, shards: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...
