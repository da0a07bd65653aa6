"""Plain values for etcd's requests and answers: key-values, operations and compares of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxist.pb import etcd_kv_pb2 as kv_pb
from proxist.pb import etcd_rpc_pb2 as pb

TXN_OPS_MAX = 100
"""Operations per (nested) transaction: etcd's `--max-txn-ops` is 128 by default, and a nested one counts less its
parent's own."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd holds it. `mod_revision` is the store's revision at its last write, `lease` 0 where none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key, or with `prefix` every key that begins with it."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Write one key; with a lease id the key lives no longer than the lease."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key, or with `prefix` every key that begins with it; what is not there is no error."""

    key: str
    prefix: bool = False


Op = Get | Put | Delete


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction; build it with `absent`, `exists`, `mod_is`, `value_is`, `lease_is`."""

    wire: pb.Compare


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction did: which branch, at which revision, and per operation the keys that a Get read (else ())."""

    succeeded: bool
    revision: int
    reads: tuple[tuple[KeyValue, ...], ...]


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(pb.Compare(key=key.encode(), result=pb.Compare.EQUAL, target=pb.Compare.CREATE, create_revision=0))


def exists(key: str) -> Compare:
    return Compare(
        pb.Compare(key=key.encode(), result=pb.Compare.NOT_EQUAL, target=pb.Compare.CREATE, create_revision=0)
    )


def mod_is(key: str, revision: int) -> Compare:
    """The key was last written at `revision`; 0 means that it does not exist."""
    return Compare(pb.Compare(key=key.encode(), result=pb.Compare.EQUAL, target=pb.Compare.MOD, mod_revision=revision))


def unchanged(kv: KeyValue) -> Compare:
    """The key is still as it was read."""
    return mod_is(kv.key, kv.mod_revision)


def value_is(key: str, value: bytes) -> Compare:
    return Compare(pb.Compare(key=key.encode(), result=pb.Compare.EQUAL, target=pb.Compare.VALUE, value=value))


def lease_is(key: str, lease: int) -> Compare:
    """The key exists and is attached to `lease`."""
    return Compare(pb.Compare(key=key.encode(), result=pb.Compare.EQUAL, target=pb.Compare.LEASE, lease=lease))


def prefix_end(prefix: str) -> bytes:
    """The end, exclusive, of the range of keys that begin with `prefix`, which must not be empty."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1])


def to_op(op: Op) -> pb.RequestOp:
    key = op.key.encode()
    match op:
        case Put():
            return pb.RequestOp(request_put=pb.PutRequest(key=key, value=op.value, lease=op.lease))
        case Delete():
            end = prefix_end(op.key) if op.prefix else b""
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end))
        case Get():
            end = prefix_end(op.key) if op.prefix else b""
            return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=end))


def to_txn(compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]) -> pb.TxnRequest:
    """One atomic request of any size: lists over TXN_OPS_MAX become nested transactions without conditions."""
    return pb.TxnRequest(compare=[c.wire for c in compares], success=_nested(then), failure=_nested(otherwise))


def read_results(responses: Sequence[pb.ResponseOp]) -> tuple[tuple[KeyValue, ...], ...]:
    """Per operation the keys that it read, nested transactions laid out flat again."""
    reads: list[tuple[KeyValue, ...]] = []
    for response in responses:
        if response.WhichOneof("response") == "response_txn":
            reads.extend(read_results(response.response_txn.responses))
        else:
            reads.append(tuple(from_kv(kv) for kv in response.response_range.kvs))
    return tuple(reads)


def from_kv(kv: kv_pb.KeyValue) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def _nested(ops: Sequence[Op]) -> list[pb.RequestOp]:
    wire = [to_op(op) for op in ops]
    if len(wire) <= TXN_OPS_MAX:
        return wire
    parts = [wire[i : i + TXN_OPS_MAX] for i in range(0, len(wire), TXN_OPS_MAX)]
    return [pb.RequestOp(request_txn=pb.TxnRequest(success=part)) for part in parts]
