"""The commonest question at a door, the last rows of a few keys, without parser and executor: a text that came before is
known by its bytes, and the rows are a prepared read of a hot set that this process has mapped.

Whatever is out of the ordinary (history, tokens, several shards, an owner that has ended, a caller without the right) is
not answered here: the executor then says what there is to say. Rows, receipts and rights are the same on both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from proxist.auth.identity import Caller
from proxist.errors import ProxistError, Unavailable
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, ShardId
from proxist.model.query import LastBy, Query, parse_query
from proxist.model.receipt import HotReceipts, receipt_from_json
from proxist.model.table import Table
from proxist.seam import Answer
from proxist.seam.last_rows import Form, form_of, is_plain

TEXTS_MAX, TEXT_BYTES_MAX = 4_096, 4_096
SHARD_REQUEST = "last_rows"
_ID, _ID_DIGITS_MAX = b', "id": ', 18

T = TypeVar("T")
Elsewhere = Callable[[Form, str], tuple[pa.RecordBatch, bytes] | None]
"""(form, the query's hot path) -> rows and receipt from the shard's owner over Flight; None: it is the executor's to ask."""


class QuickAnswer(NamedTuple):
    """`rows` with the answer's own `schema`, `receipt` as JSON."""

    query: Query
    schema: pa.Schema
    rows: pa.RecordBatch
    receipt: bytes

    def full(self) -> Answer:
        """As the executor gives it."""
        return Answer(pa.Table.from_batches([self.rows]), receipt_from_json(json.loads(self.receipt)))


class _Asked:
    """A text that can be answered so. Threads may replace `form` and `receipts`, which are of the table and the owner that
    were there last, while others use what they found."""

    __slots__ = ("form", "query", "receipts", "verb")

    def __init__(self, query: Query, verb: LastBy) -> None:
        self.query, self.verb = query, verb
        self.form: Form | None = None
        self.receipts: tuple[Form, Epoch, HotReceipts] | None = None

    def form_for(self, table: Table) -> Form | None:
        form = self.form
        if form is None or form.table is not table:
            form = self.form = form_of(table, self.verb.keys or (), self.verb.columns)
        return form

    def answer(self, form: Form, reader: HotReader) -> QuickAnswer | None:
        """None where RAM does not suffice. Raises Unavailable where it cannot be read."""
        found, epoch = reader.last_rows(form.names, form.columns), reader.epoch
        if found.undecided:
            return None
        known = self.receipts
        if known is None or known[0] is not form or known[1] != epoch:
            made = HotReceipts(form.table.name, form.shard, epoch, form.table.schema_version)
            known = self.receipts = form, epoch, made
        rows = form.rows(found.shape, found.cells, found.slots)
        receipt = known[2].receipt(found.told.seam, found.told.persisted, found.told.end, rows.num_rows)
        return QuickAnswer(self.query, form.schema, rows, receipt)


class _Texts(Generic[T]):
    """What texts mean, by their bytes, up to a bound; what means nothing is remembered too, so that it is parsed but once
    more."""

    def __init__(self, parse: Callable[[bytes], T | None]) -> None:
        self._parse = parse
        self._known: dict[tuple[str, bytes], T | None] = {}

    def get(self, tenant: str, text: bytes) -> T | None:
        try:
            return self._known[tenant, text]
        except KeyError:
            pass
        if len(text) > TEXT_BYTES_MAX:
            return None
        if len(self._known) >= TEXTS_MAX:
            self._known = {}
        found = self._known[tenant, text] = self._parse(text)
        return found

    def __len__(self) -> int:
        return len(self._known)


class QuickReads:
    """Queries of the public surface. Thread-safe."""

    def __init__(
        self,
        table: Callable[[str, str], Table],
        reader: Callable[[ShardId], HotReader | None],
        ended: Callable[[ShardId, HotReader], None],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`table(tenant, name)` as it is now, or NotFound; `reader(shard)` what is mapped of it; `ended` is told of a reader
        whose owner has ended. `elsewhere` is asked where nothing is mapped, or the query wants Flight; without it every
        hot path means what is mapped."""
        self._table, self._reader, self._ended, self._elsewhere = table, reader, ended, elsewhere
        self._texts = _Texts(_parse_query)

    def answer(self, text: bytes, caller: Caller) -> QuickAnswer | None:
        """The answer to the query `text` + "}"; None: ask the executor."""
        tenant = caller.tenant()
        asked = self._texts.get(tenant, text)
        if asked is None:
            return None
        try:
            caller.table(asked.verb.table, tenant)
            form = asked.form_for(self._table(tenant, asked.verb.table))
            return None if form is None else self._read(asked, form)
        except ProxistError:
            return None

    def _read(self, asked: _Asked, form: Form) -> QuickAnswer | None:
        away = self._elsewhere is not None and asked.query.hot_path == "flight"
        reader = None if away else self._reader(form.shard)
        if reader is None:
            return self._ask_elsewhere(asked, form)
        try:
            return asked.answer(form, reader)
        except Unavailable as error:
            if error.details.get("reason") != "evicting":  # then the owner lives
                self._ended(form.shard, reader)
            return None

    def _ask_elsewhere(self, asked: _Asked, form: Form) -> QuickAnswer | None:
        found = None if self._elsewhere is None else self._elsewhere(form, asked.query.hot_path)
        if found is None or not found[0].schema.equals(form.schema):
            return None
        return QuickAnswer(asked.query, form.schema, *found)


class QuickShards:
    """The same for another node that has settled rights and table: `request_of` is its question. Thread-safe."""

    def __init__(self, table: Callable[[ShardId], Table], reader: Callable[[ShardId], HotReader | None]) -> None:
        """`table(shard)` as it is now, or NotFound; `reader(shard)` of the one that this node owns."""
        self._table, self._reader = table, reader
        self._texts = _Texts(_parse_request)

    def answer(self, text: bytes) -> QuickAnswer | None:
        """The answer to the request `text` + "}"; None: there is none this way."""
        found = self._texts.get("", text)
        if found is None:
            return None
        shard, asked = found
        try:
            form = asked.form_for(self._table(shard))
            reader = self._reader(shard)
            right = form is not None and form.shard == shard
            return asked.answer(form, reader) if form is not None and reader is not None and right else None
        except ProxistError:
            return None


def request_of(form: Form) -> dict[str, Any]:
    """What another node asks the owner of `form.shard` in a session."""
    return {SHARD_REQUEST: {"shard": form.shard, "keys": list(form.names), "columns": list(form.columns)}}


def _parse_query(text: bytes) -> _Asked | None:
    try:
        query = parse_query(text.decode() + "}")
    except (ValueError, ProxistError):
        return None
    verb = query.verb
    if not isinstance(verb, LastBy) or verb.at_ns is not None or not verb.keys or not is_plain(query):
        return None
    return _Asked(query, verb)


def _parse_request(text: bytes) -> tuple[ShardId, _Asked] | None:
    try:
        wire = json.loads(text + b"}")[SHARD_REQUEST]
        shard, keys, columns = wire["shard"], wire["keys"], wire["columns"]
    except (ValueError, KeyError, TypeError):
        return None
    asked = _parse_query(
        json.dumps({"last_by": {"table": "of the shard", "keys": keys, "columns": columns}}).encode()[:-1]
    )
    return None if asked is None or type(shard) is not int else (ShardId(shard), asked)


def without_id(request: bytes) -> tuple[bytes, bytes] | None:
    """(the text before, the id) of a session's request `{…, "id": 17}`, as `json.dumps` writes it; None for any other."""
    text, found, last = request.rpartition(_ID)
    number = last[:-1]
    if not found or last[-1:] != b"}" or not number.isdigit() or len(number) > _ID_DIGITS_MAX:
        return None
    return None if number[:1] == b"0" and len(number) > 1 else (text, number)


def ticket_text(ticket: bytes) -> bytes | None:
    """The text of a DoGet's ticket without its last "}"; None where it does not end with one."""
    return ticket[:-1] if ticket[-1:] == b"}" else None
