from proxist.pb import persister_pb2 as _persister_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TableSpec(_message.Message):
    __slots__ = ("name", "time", "key", "seq", "columns", "shards", "durability", "hot_window", "hot_bytes", "flush", "dedup")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    HOT_WINDOW_FIELD_NUMBER: _ClassVar[int]
    HOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    DEDUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    time: str
    key: str
    seq: str
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    shards: int
    durability: str
    hot_window: str
    hot_bytes: str
    flush: Flush
    dedup: str
    def __init__(self, name: _Optional[str] = ..., time: _Optional[str] = ..., key: _Optional[str] = ..., seq: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., shards: _Optional[int] = ..., durability: _Optional[str] = ..., hot_window: _Optional[str] = ..., hot_bytes: _Optional[str] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ..., dedup: _Optional[str] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type", "nullable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    nullable: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., nullable: _Optional[bool] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ("rows", "bytes", "age")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    bytes: str
    age: str
    def __init__(self, rows: _Optional[int] = ..., bytes: _Optional[str] = ..., age: _Optional[str] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("id", "tenant", "spec", "shard_ids", "schema_version", "state", "paused")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SHARD_IDS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    id: int
    tenant: str
    spec: TableSpec
    shard_ids: _containers.RepeatedScalarFieldContainer[int]
    schema_version: int
    state: str
    paused: bool
    def __init__(self, id: _Optional[int] = ..., tenant: _Optional[str] = ..., spec: _Optional[_Union[TableSpec, _Mapping]] = ..., shard_ids: _Optional[_Iterable[int]] = ..., schema_version: _Optional[int] = ..., state: _Optional[str] = ..., paused: _Optional[bool] = ...) -> None: ...

class CreateTableRequest(_message.Message):
    __slots__ = ("tenant", "spec")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    spec: TableSpec
    def __init__(self, tenant: _Optional[str] = ..., spec: _Optional[_Union[TableSpec, _Mapping]] = ...) -> None: ...

class CreateTableResponse(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: Table
    def __init__(self, table: _Optional[_Union[Table, _Mapping]] = ...) -> None: ...

class DescribeTableRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class DescribeTableResponse(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: Table
    def __init__(self, table: _Optional[_Union[Table, _Mapping]] = ...) -> None: ...

class ListTablesRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListTablesResponse(_message.Message):
    __slots__ = ("tables",)
    TABLES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[Table]
    def __init__(self, tables: _Optional[_Iterable[_Union[Table, _Mapping]]] = ...) -> None: ...

class DropTableRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class DropTableResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "role", "pid", "flight", "grpc", "http", "state", "insecure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    pid: int
    flight: str
    grpc: str
    http: str
    state: str
    insecure: bool
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., pid: _Optional[int] = ..., flight: _Optional[str] = ..., grpc: _Optional[str] = ..., http: _Optional[str] = ..., state: _Optional[str] = ..., insecure: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("nodes", "shards")
    NODES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    shards: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...

class ListShardsRequest(_message.Message):
    __slots__ = ("table", "tenant")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    table: str
    tenant: str
    def __init__(self, table: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("table", "shard", "slot", "node", "epoch", "state", "tenant", "error")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    table: str
    shard: int
    slot: int
    node: str
    epoch: int
    state: str
    tenant: str
    error: str
    def __init__(self, table: _Optional[str] = ..., shard: _Optional[int] = ..., slot: _Optional[int] = ..., node: _Optional[str] = ..., epoch: _Optional[int] = ..., state: _Optional[str] = ..., tenant: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class ListShardsResponse(_message.Message):
    __slots__ = ("shards",)
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    def __init__(self, shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ...) -> None: ...

class WatermarksRequest(_message.Message):
    __slots__ = ("table", "tenant")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    table: str
    tenant: str
    def __init__(self, table: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

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

class FlushRequest(_message.Message):
    __slots__ = ("tenant", "table", "timeout_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    timeout_ms: int
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class FlushResponse(_message.Message):
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
    __slots__ = ("watermarks",)
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    watermarks: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, watermarks: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...

class PausePersistRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class PausePersistResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumePersistRequest(_message.Message):
    __slots__ = ("tenant", "table")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    table: str
    def __init__(self, tenant: _Optional[str] = ..., table: _Optional[str] = ...) -> None: ...

class ResumePersistResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
