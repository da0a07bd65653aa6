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
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("table", "shard", "state", "persisted", "inserts", "rows", "last_error", "verified")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_FIELD_NUMBER: _ClassVar[int]
    INSERTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    table: str
    shard: int
    state: str
    persisted: int
    inserts: int
    rows: int
    last_error: str
    verified: int
    def __init__(self, table: _Optional[str] = ..., shard: _Optional[int] = ..., state: _Optional[str] = ..., persisted: _Optional[int] = ..., inserts: _Optional[int] = ..., rows: _Optional[int] = ..., last_error: _Optional[str] = ..., verified: _Optional[int] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("tenant", "table", "shard", "to")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    shard: int
    to: int
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ..., shard: _Optional[int] = ..., to: _Optional[int] = ..., **kwargs) -> None: ...

class RepairRequest(_message.Message):
    __slots__ = ("tenant", "table", "shard", "execute")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    shard: int
    execute: bool
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ..., shard: _Optional[int] = ..., execute: _Optional[bool] = ...) -> None: ...

class VerifyEvent(_message.Message):
    __slots__ = ("progress", "finding", "step", "checked")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    finding: Finding
    step: Step
    checked: Checked
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., finding: _Optional[_Union[Finding, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., checked: _Optional[_Union[Checked, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("shard", "stage", "rows", "of")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    shard: int
    stage: str
    rows: int
    of: int
    def __init__(self, shard: _Optional[int] = ..., stage: _Optional[str] = ..., rows: _Optional[int] = ..., of: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("kind", "shard", "log", "first", "last", "rows", "columns", "remedy")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    shard: int
    log: int
    first: int
    last: int
    rows: int
    columns: _containers.RepeatedScalarFieldContainer[str]
    remedy: str
    def __init__(self, kind: _Optional[str] = ..., shard: _Optional[int] = ..., log: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[_Iterable[str]] = ..., remedy: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("shard", "action", "what", "rows", "rewritten", "done")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REWRITTEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    action: str
    what: str
    rows: int
    rewritten: int
    done: bool
    def __init__(self, shard: _Optional[int] = ..., action: _Optional[str] = ..., what: _Optional[str] = ..., rows: _Optional[int] = ..., rewritten: _Optional[int] = ..., done: _Optional[bool] = ...) -> None: ...

class Checked(_message.Message):
    __slots__ = ("shard", "to", "rows", "compared", "note")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    to: int
    rows: int
    compared: int
    note: str
    def __init__(self, shard: _Optional[int] = ..., to: _Optional[int] = ..., rows: _Optional[int] = ..., compared: _Optional[int] = ..., note: _Optional[str] = ..., **kwargs) -> None: ...
