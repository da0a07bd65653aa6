"""The commonest question at a door, the last rows of a few keys, without parser and executor: a text that came before is
known by its bytes, and the rows are a prepared read of a hot set that this process has mapped.

Whatever is out of the ordinary (history, tokens, several shards, an owner that has ended, a caller without the right) is
not answered here: the executor then says what there is to say. Rows, receipts and rights are the same on both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from proxist.auth.identity import Caller
from proxist.errors import ProxistError, Unavailable
from proxist.hot.prepared import LastRows
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, ShardId
from proxist.model.query import LastBy, Query, parse_query
from proxist.model.receipt import HotReceipts
from proxist.model.table import Table
from proxist.seam import Answer
from proxist.seam.last_rows import Form, form_of, is_plain

TEXTS_MAX, TEXT_BYTES_MAX = 4_096, 4_096
_ID, _ID_DIGITS_MAX = b', "id": ', 18


class _Owned(NamedTuple):
    """What the answers to one text have in common while a table is as it is, and its shard with one owner."""

    form: Form
    epoch: Epoch
    receipts: HotReceipts


class _Asked:
    """A text that can be answered so. Threads may replace `form` and `owned` while others use what they found there."""

    __slots__ = ("form", "owned", "query", "verb")

    def __init__(self, query: Query, verb: LastBy) -> None:
        self.query, self.verb = query, verb
        self.form: Form | None = None
        self.owned: _Owned | None = None


class QuickAnswer:
    """`rows` with the answer's own schema, `receipt` as JSON."""

    __slots__ = ("_found", "_owned", "query", "receipt", "rows")

    def __init__(self, query: Query, owned: _Owned, found: LastRows) -> None:
        self.query, self._owned, self._found = query, owned, found
        self.rows = owned.form.rows(found.shape, found.cells, found.slots)
        self.receipt = owned.receipts.receipt(found.told.seam, found.told.end, self.rows.num_rows)

    @property
    def schema(self) -> pa.Schema:
        return self._owned.form.schema

    def full(self) -> Answer:
        """As the executor gives it."""
        receipt = self._owned.form.receipt(self._owned.epoch, self._found.told, self._found.slots)
        return Answer(pa.Table.from_batches([self.rows]), receipt)


class QuickReads:
    """Thread-safe."""

    def __init__(
        self,
        table: Callable[[str, str], Table],
        reader: Callable[[ShardId], HotReader | None],
        ended: Callable[[ShardId, HotReader], None],
        *,
        hot_paths: tuple[str, ...] = ("auto", "attach", "flight"),
    ) -> None:
        """`table(tenant, name)` as it is now, or NotFound; `reader(shard)` what is mapped of it; `ended` is told of a reader
        whose owner has ended. `hot_paths`: those of a query that may go this way."""
        self._table, self._reader, self._ended, self._hot_paths = table, reader, ended, hot_paths
        self._texts: dict[tuple[str, bytes], _Asked | None] = {}

    def answer(self, text: bytes, caller: Caller) -> QuickAnswer | None:
        """The answer to the query `text` + "}"; None: ask the executor."""
        tenant = caller.tenant()
        try:
            asked = self._texts[tenant, text]
        except KeyError:
            asked = self._keep(tenant, text)
        if asked is None:
            return None
        verb = asked.verb
        try:
            caller.table(verb.table, tenant)
            table = self._table(tenant, verb.table)
            form = asked.form
            if form is None or form.table is not table:
                form = asked.form = form_of(table, verb.keys or (), verb.columns)
            return None if form is None else self._read(asked, form)
        except ProxistError:
            return None

    def _read(self, asked: _Asked, form: Form) -> QuickAnswer | None:
        reader = self._reader(form.shard)
        if reader is None:
            return None
        try:
            found = reader.last_rows(form.names, form.columns)
        except Unavailable as error:
            if error.details.get("reason") != "evicting":  # then the owner lives
                self._ended(form.shard, reader)
            return None
        if found.undecided:
            return None
        owned = asked.owned
        if owned is None or owned.form is not form or owned.epoch != reader.epoch:
            receipts = HotReceipts(form.table.name, form.shard, reader.epoch, form.table.schema_version)
            owned = asked.owned = _Owned(form, reader.epoch, receipts)
        return QuickAnswer(asked.query, owned, found)

    def _keep(self, tenant: str, text: bytes) -> _Asked | None:
        """What is no such query is remembered too, so that it is parsed but once more."""
        if len(text) > TEXT_BYTES_MAX:
            return None
        asked = self._parsed(text)
        if len(self._texts) >= TEXTS_MAX:
            self._texts = {}
        self._texts[tenant, text] = asked
        return asked

    def _parsed(self, text: bytes) -> _Asked | None:
        try:
            wire: Any = json.loads(text + b"}")
            query = parse_query(wire)
        except (ValueError, ProxistError):
            return None
        verb = query.verb
        if not isinstance(verb, LastBy) or verb.at_ns is not None or not verb.keys or not is_plain(query):
            return None
        return _Asked(query, verb) if query.hot_path in self._hot_paths else None


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
