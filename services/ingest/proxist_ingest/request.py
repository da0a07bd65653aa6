"""What a client says beside a batch: the app_metadata of a DoPut message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from proxist.errors import InvalidArgument
from proxist_ingest.part import LEVELS, raise_level
from proxist_ingest.producers import check_name

_KNOWN = ("producer", "seq", "durability", "acks", "slot", "traceparent", "follows", "alone")


@dataclass(frozen=True, slots=True)
class PutRequest:
    """`level` is what the first ack waits for, `acks` the higher ones that are to follow it. `follows`: the number before
    was sent, so a shard that does not know the producer has refused it and must not take this one as the first. `alone`:
    the client has no other batch on its way."""

    level: str
    producer: str | None = None
    number: int = 0
    acks: tuple[str, ...] = ()
    slot: int | None = None
    traceparent: str | None = None
    """W3C context of the caller's span; per batch, since a stream carries the batches of many traces."""
    follows: bool = False
    alone: bool = False

    def to_json(self) -> dict[str, Any]:
        """The metadata that asks another node for the same."""
        wire: dict[str, Any] = {"durability": self.level}
        if self.producer is not None:
            wire |= {"producer": self.producer, "seq": self.number, "follows": self.follows}
        if self.acks:
            wire["acks"] = list(self.acks)
        if self.traceparent is not None:
            wire["traceparent"] = self.traceparent
        return wire


def parse_request(metadata: bytes | None, table_level: str) -> PutRequest:
    """Read the metadata of one batch; none at all is fine. Raises InvalidArgument that names the field."""
    if not metadata:
        return PutRequest(table_level)
    try:
        wire = json.loads(metadata)
    except ValueError as error:
        raise InvalidArgument(
            f'The app_metadata of the batch is not JSON ({error}). Send for example {{"producer": "feed-a", "seq": 17}}.'
        ) from None
    if not isinstance(wire, dict):
        raise InvalidArgument("The app_metadata of the batch must be a JSON object.")
    if unknown := [name for name in wire if name not in _KNOWN]:
        raise InvalidArgument(
            f"The app_metadata of the batch has the unknown field {unknown[0]!r}. Fields are {', '.join(_KNOWN)}."
        )
    producer, number = None, 0
    if wire.get("producer") is not None or wire.get("seq") is not None:
        producer, number = check_name(wire.get("producer"), wire.get("seq"))
    level = raise_level(table_level, wire.get("durability"), "`durability` of the batch")
    carried = wire.get("traceparent")
    follows, alone = (_flag(name, wire) for name in ("follows", "alone"))
    return PutRequest(
        level,
        producer,
        number,
        _acks(wire.get("acks"), level),
        _slot(wire.get("slot")),
        carried if isinstance(carried, str) else None,
        follows,
        alone,
    )


def _flag(name: str, wire: dict[str, Any]) -> bool:
    value = wire.get(name, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"`{name}` of the batch is {value!r}, but must be true or false.")
    return value


def _acks(asked: Any, level: str) -> tuple[str, ...]:
    if asked is None:
        return ()
    if not isinstance(asked, list):
        raise InvalidArgument(f'`acks` of the batch is {asked!r}, but must be a list of levels, say ["cold"].')
    for one in asked:
        raise_level(level, one, "A level in `acks` of the batch")
    above = {one for one in asked if LEVELS.index(one) > LEVELS.index(level)}
    return tuple(sorted(above, key=LEVELS.index))


def _slot(asked: Any) -> int | None:
    if asked is not None and (not isinstance(asked, int) or isinstance(asked, bool) or asked < 0):
        raise InvalidArgument(f"`slot` of the batch is {asked!r}, but must be a slot's number. Read the shard map.")
    return asked


def parse_path(path: list[bytes] | None) -> tuple[str, str]:
    """(tenant, table) of a descriptor's path: `["trades"]`, whose tenant "" is the caller's, or `[tenant, table]`."""
    names = [part.decode("utf-8", "replace") for part in path or []]
    if len(names) == 1:
        return "", names[0]
    if len(names) == 2:
        return names[0], names[1]
    raise InvalidArgument(
        f'The descriptor of a DoPut has the path {names}, but must be a PATH of one table\'s name, such as ["trades"].'
    )
