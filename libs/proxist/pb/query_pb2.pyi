import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Completeness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    strict: _ClassVar[Completeness]
    best_effort: _ClassVar[Completeness]

class HotPath(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    auto: _ClassVar[HotPath]
    attach: _ClassVar[HotPath]
    flight: _ClassVar[HotPath]

class OnStale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    error: _ClassVar[OnStale]
    hot: _ClassVar[OnStale]

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    backward: _ClassVar[Direction]
    forward: _ClassVar[Direction]
    nearest: _ClassVar[Direction]
strict: Completeness
best_effort: Completeness
auto: HotPath
attach: HotPath
flight: HotPath
error: OnStale
hot: OnStale
backward: Direction
forward: Direction
nearest: Direction

class Query(_message.Message):
    __slots__ = ("sql", "last_by", "first_by", "asof", "scan", "window", "bars", "freshness", "as_of", "completeness", "hot_path")
    SQL_FIELD_NUMBER: _ClassVar[int]
    LAST_BY_FIELD_NUMBER: _ClassVar[int]
    FIRST_BY_FIELD_NUMBER: _ClassVar[int]
    ASOF_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    BARS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_FIELD_NUMBER: _ClassVar[int]
    HOT_PATH_FIELD_NUMBER: _ClassVar[int]
    sql: str
    last_by: LastBy
    first_by: FirstBy
    asof: Asof
    scan: Scan
    window: Window
    bars: Bars
    freshness: Freshness
    as_of: str
    completeness: Completeness
    hot_path: HotPath
    def __init__(self, sql: _Optional[str] = ..., last_by: _Optional[_Union[LastBy, _Mapping]] = ..., first_by: _Optional[_Union[FirstBy, _Mapping]] = ..., asof: _Optional[_Union[Asof, _Mapping]] = ..., scan: _Optional[_Union[Scan, _Mapping]] = ..., window: _Optional[_Union[Window, _Mapping]] = ..., bars: _Optional[_Union[Bars, _Mapping]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., as_of: _Optional[str] = ..., completeness: _Optional[_Union[Completeness, str]] = ..., hot_path: _Optional[_Union[HotPath, str]] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("min_token", "wait_ms", "on_stale")
    MIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    ON_STALE_FIELD_NUMBER: _ClassVar[int]
    min_token: str
    wait_ms: int
    on_stale: OnStale
    def __init__(self, min_token: _Optional[str] = ..., wait_ms: _Optional[int] = ..., on_stale: _Optional[_Union[OnStale, str]] = ...) -> None: ...

class LastBy(_message.Message):
    __slots__ = ("table", "keys", "columns", "at")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedScalarFieldContainer[str]
    at: _timestamp_pb2.Timestamp
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[str]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FirstBy(_message.Message):
    __slots__ = ("table", "keys", "columns", "at")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedScalarFieldContainer[str]
    at: _timestamp_pb2.Timestamp
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[str]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Scan(_message.Message):
    __slots__ = ("table", "keys", "columns", "to", "limit")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedScalarFieldContainer[str]
    to: _timestamp_pb2.Timestamp
    limit: int
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[str]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[int] = ..., **kwargs) -> None: ...

class AsofRight(_message.Message):
    __slots__ = ("table", "columns")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    table: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, table: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class Asof(_message.Message):
    __slots__ = ("left", "right", "direction", "tolerance", "allow_exact")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_EXACT_FIELD_NUMBER: _ClassVar[int]
    left: Scan
    right: AsofRight
    direction: Direction
    tolerance: _duration_pb2.Duration
    allow_exact: bool
    def __init__(self, left: _Optional[_Union[Scan, _Mapping]] = ..., right: _Optional[_Union[AsofRight, _Mapping]] = ..., direction: _Optional[_Union[Direction, str]] = ..., tolerance: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., allow_exact: _Optional[bool] = ...) -> None: ...

class Agg(_message.Message):
    __slots__ = ("fn", "value", "weight", "alpha")
    FN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    AS_FIELD_NUMBER: _ClassVar[int]
    fn: str
    value: str
    weight: str
    alpha: float
    def __init__(self, fn: _Optional[str] = ..., value: _Optional[str] = ..., weight: _Optional[str] = ..., alpha: _Optional[float] = ..., **kwargs) -> None: ...

class Window(_message.Message):
    __slots__ = ("table", "keys", "to", "range", "rows", "aggs")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    AGGS_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    to: _timestamp_pb2.Timestamp
    range: _duration_pb2.Duration
    rows: int
    aggs: _containers.RepeatedCompositeFieldContainer[Agg]
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., range: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rows: _Optional[int] = ..., aggs: _Optional[_Iterable[_Union[Agg, _Mapping]]] = ..., **kwargs) -> None: ...

class Bars(_message.Message):
    __slots__ = ("table", "keys", "to", "every", "fill", "aggs")
    class Fill(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        none: _ClassVar[Bars.Fill]
        null: _ClassVar[Bars.Fill]
        prev: _ClassVar[Bars.Fill]
    none: Bars.Fill
    null: Bars.Fill
    prev: Bars.Fill
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    AGGS_FIELD_NUMBER: _ClassVar[int]
    table: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    to: _timestamp_pb2.Timestamp
    every: _duration_pb2.Duration
    fill: Bars.Fill
    aggs: _containers.RepeatedCompositeFieldContainer[Agg]
    def __init__(self, table: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., every: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fill: _Optional[_Union[Bars.Fill, str]] = ..., aggs: _Optional[_Iterable[_Union[Agg, _Mapping]]] = ..., **kwargs) -> None: ...

class Answer(_message.Message):
    __slots__ = ("rows", "receipt")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    receipt: _struct_pb2.Struct
    def __init__(self, rows: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ..., receipt: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("name", "state", "pid", "version", "owners")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    pid: int
    version: str
    owners: _containers.RepeatedCompositeFieldContainer[Owner]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., owners: _Optional[_Iterable[_Union[Owner, _Mapping]]] = ...) -> None: ...

class Owner(_message.Message):
    __slots__ = ("node", "via")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    node: str
    via: str
    def __init__(self, node: _Optional[str] = ..., via: _Optional[str] = ...) -> None: ...
