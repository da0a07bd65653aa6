"""A connection: one cluster, reached through any of its query or ingest nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from proxist.auth.outgoing import fixed
from proxist.client.acks import Ack
from proxist.client.answer import Answer
from proxist.client.attach import Attaching, Elsewhere
from proxist.client.session import Session
from proxist.client.table import Table
from proxist.client.topology import TableMap, Topology, parse_topology
from proxist.client.tracing import query_span
from proxist.client.verbs import Verbs
from proxist.client.wire import UNREACHABLE, Wire, check_uri
from proxist.client.writer import Writer
from proxist.errors import NotFound, ProxistError, Unavailable
from proxist.model.table import TableSpec, parse_spec
from proxist.rpc.tls import PLAIN, Tls, from_environment, of_files

TIMEOUT_S = 30.0
TOKEN_VARIABLE = "PROXIST_TOKEN"
READ_RETRY_S = 10.0
_BACKOFF_S = 0.1

T = TypeVar("T")


def connect(
    uri: str,
    *,
    token: str | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    attach: str = "auto",
    timeout_s: float = TIMEOUT_S,
    read_retry_s: float = READ_RETRY_S,
    lazy: bool = False,
) -> Connection:
    """Connect to a cluster through one of its nodes: `grpc+tls://host:port`, `grpc://host:port`, `grpc+unix:///path` or
    `host:port`, which is the first where a file of TLS is given and the second where none is.

    Reads go to that node where it is a query node, else to a query node of the cluster; writes go straight to the
    owners. `token` (else PROXIST_TOKEN) says who calls, where the cluster has `auth: tokens`. `tls_ca` (else
    PROXIST_TLS_CA; PEM) is whom a TLS node must be certified by, without it any authority that the machine trusts;
    `tls_cert` and `tls_key` (else PROXIST_TLS_CERT, PROXIST_TLS_KEY) are shown to nodes that ask. `timeout_s` bounds each
    call. A read whose node does not answer is tried again, there and on the cluster's other query nodes, for
    `read_retry_s`; an error that a node sent is raised at once. `attach`: "auto" maps the hot sets of owners on this host
    and answers from them in this process, where the extra `attach` is installed, and uses Flight for all else; "never"
    always uses Flight; "require" fails where an owner cannot be attached (history and SQL are the query nodes' even
    then). Raises Unavailable where nobody answers, Unauthenticated and PermissionDenied where the token is missing, not
    valid or too small, ConfigError where the TLS files cannot be used, or attaching is required and not installed.
    `lazy`: nobody is asked before the first call, so that a writer with a spool starts while the cluster is away.
    """
    connection = Connection(
        uri,
        timeout_s=timeout_s,
        read_retry_s=read_retry_s,
        token=token or os.environ.get(TOKEN_VARIABLE) or None,
        tls=_tls(tls_ca, tls_cert, tls_key),
        attach=attach,
    )
    try:
        if not lazy:
            connection.topology()
            connection.attaching.check()
    except BaseException:
        connection.close()
        raise
    return connection


def _tls(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> Tls:
    """What was given, else what the environment says; a certificate and its key come from one place."""
    told = from_environment()
    pair = (cert, key) if cert or key else (told.cert, told.key)
    return of_files(*pair, ca or told.ca)


class Connection(Verbs):
    """Safe for several threads. `_lock` guards the wires, the topology, the writers, the probe session and the reader."""

    def __init__(
        self,
        uri: str,
        *,
        timeout_s: float,
        read_retry_s: float,
        token: str | None = None,
        tls: Tls = PLAIN,
        attach: str = "never",
    ) -> None:
        self._credential = fixed(token)
        self._tls = tls
        self.attaching = Attaching(attach, self.topology, token)
        self.uri = check_uri(uri, tls)
        self._timeout_s = timeout_s
        self._read_retry_s = read_retry_s
        self._lock = threading.RLock()
        self._closed = False
        self._wires: dict[str, Wire] = {}
        self._topology: Topology | None = None
        self._writers: dict[tuple[str, str | None], Writer] = {}
        self._probe_session: Session | None = None
        self._reader_uri: str | None = None

    # -- reads --

    def query(self, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Answer:
        """Any JSON query of the public surface; `probes` are the rows of `left: {"probe": true}`."""
        local = self.attaching.reads()
        if local is None:
            return self._ask(query, probes)
        deadline_s = time.monotonic() + self._read_retry_s
        while True:
            try:
                with query_span(query, self.uri):
                    return local.answer(query, probes, self._timeout_s)
            except Elsewhere as elsewhere:
                owner_is_away = elsewhere.error is not None
            try:
                return self._ask(query, probes)
            except Unavailable:  # an owner that is being replaced is attached or answers again in a moment
                if not owner_is_away or time.monotonic() > deadline_s:
                    raise
            time.sleep(_BACKOFF_S)

    def _ask(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> Answer:
        """Over Flight."""
        if probes is not None:
            return self._read(lambda: self._session_for_probes().query(query, probes))
        with query_span(query, self.uri):
            return self._read(lambda: self._reader().get(query, self._timeout_s))

    def session(self) -> Session:
        """Open streams for many small queries; close it, or use `with`."""
        return Session(self._reader(), timeout_s=self._timeout_s)

    def table(self, name: str) -> Table:
        return Table(self, name)

    # -- writes --

    def write(self, table: str, rows: Any, *, durability: str | None = None, timeout_s: float | None = None) -> Ack:
        """See `Table.write`."""
        with self._lock:
            self._check_open()
            writer = self._writers.get((table, durability))
            if writer is None or writer.failed is not None:
                if writer is not None:
                    writer.close(abandon=True)
                writer = self._writers[table, durability] = Writer(self, table, durability=durability)
        return writer.write(rows, timeout_s=timeout_s)

    # -- tables --

    def create_table(self, spec: Mapping[str, Any] | TableSpec) -> Table:
        """Create a table from its spec (`Tables` in docs/api.md); returns when every shard accepts rows.

        An equal spec again succeeds; another one under the same name raises AlreadyExists.
        """
        wanted = spec if isinstance(spec, TableSpec) else parse_spec(dict(spec))
        self._reader().action("create_table", wanted.to_json(), self._timeout_s)
        self._await_topology(lambda known: wanted.name in known.tables and None not in known.table(wanted.name).owners)
        return Table(self, wanted.name)

    def drop_table(self, name: str) -> None:
        """Drop a table with its rows, hot and cold; returns when the name is free."""
        with self._lock:
            writers = [self._writers.pop(key) for key in list(self._writers) if key[0] == name]
        for writer in writers:
            writer.close(abandon=True)
        self._reader().action("drop_table", {"table": name}, self._timeout_s)
        self._await_topology(lambda known: name not in known.tables)

    def tables(self) -> list[TableSpec]:
        """The specs of all tables, by name."""
        tables = self.topology(fresh=True).tables
        return [tables[name].spec for name in sorted(tables)]

    def flush(self, table: str) -> None:
        """Returns when everything acked before the call is in ClickHouse. Raises Paused, Unavailable."""
        self._reader().action("flush", {"table": table}, self._timeout_s)

    # -- the cluster --

    def topology(self, *, fresh: bool = False, table: str = "") -> Topology:
        """Tables, owners and query nodes: as last read, or asked anew of any node that answers, which is then as new as
        etcd for `table`."""
        known = self._topology
        if known is not None and not fresh and not self._closed:
            return known  # without the lock, which is held while another thread asks
        with self._lock:
            self._check_open()
            if self._topology is None or fresh:
                self._topology = self._ask_topology(table)
            return self._topology

    def table_map(self, table: str, *, fresh: bool) -> TableMap:
        """A table and its slots' owners. A name that is not known yet is asked for once before NotFound is raised."""
        known = self.topology(fresh=fresh)
        return (known if table in known.tables else self.topology(fresh=True, table=table)).table(table)

    def producer_last(self, table: str, producer: str) -> int | None:
        """The last number that every slot of a table has of this producer; None where some slot has none."""
        lasts: list[int | None] = []
        for uri in dict.fromkeys(self.table_map(table, fresh=True).owners):
            lasts.extend(self._slot_numbers(uri, table, producer))
        return None if None in lasts else min((last for last in lasts if last is not None), default=None)

    def _slot_numbers(self, uri: str | None, table: str, producer: str) -> list[int | None]:
        try:
            if uri is not None:
                told = self.wire(uri).action("producer", {"table": table, "producer": producer}, self._timeout_s)
                return list(told["slots"].values())
        except NotFound:
            pass  # the node that the topology names does not own the shard any more, or not yet again
        raise Unavailable(
            f"A shard of table {table!r} has no owner now. Wait for its node, or look at `pxctl shards`.",
            retry_after_s=0.2,
        )

    def wire(self, uri: str) -> Wire:
        """The connection's one channel to a node."""
        with self._lock:
            self._check_open()
            if uri not in self._wires:
                self._wires[uri] = Wire(uri, self._credential, self._tls)
            return self._wires[uri]

    def close(self) -> None:
        """Ends writers, sessions and channels; unacked rows of `write` calls on other threads are abandoned."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            writers, wires, session = list(self._writers.values()), list(self._wires.values()), self._probe_session
        self.attaching.close()
        for writer in writers:
            writer.close(abandon=True)
        if session is not None:
            session.close()
        for wire in wires:
            wire.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<proxist.Connection {self.uri}>"

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The connection is closed. Connect again.")

    def _ask_topology(self, table: str) -> Topology:
        """Of the given node, else of any other one that is known."""
        known = self._topology
        others = () if known is None else (*known.ingest, *known.query)
        first: ProxistError | None = None
        for uri in dict.fromkeys((self.uri, *others)):
            try:
                return parse_topology(
                    self.wire(uri).action("topology", {"table": table} if table else {}, self._timeout_s) or {}
                )
            except Unavailable as error:
                first = first or error
        assert first is not None
        raise first

    def _await_topology(self, condition: Callable[[Topology], bool]) -> None:
        """The node that is asked for the topology may hear of a change a moment after the one that made it."""
        deadline_s = time.monotonic() + self._timeout_s
        while not condition(self.topology(fresh=True)) and time.monotonic() < deadline_s:
            time.sleep(_BACKOFF_S / 10)

    def _reader(self) -> Wire:
        """The given node where it answers queries; else a query node; else the given node, for what it owns."""
        with self._lock:
            if self._reader_uri is None:
                self._reader_uri = self._readers()[0]
            return self.wire(self._reader_uri)

    def _readers(self) -> list[str]:
        """The nodes that answer this connection's queries, the preferred one first."""
        known = self.topology()
        asked_owner = known.role == "ingest" or self.uri in known.ingest
        if asked_owner and known.query:
            return list(known.query)
        return list(dict.fromkeys((self.uri, *known.query)))

    def _fail_over(self, failed: str) -> None:
        """Read from the next node, where there is one: any query node answers any query."""
        with self._lock:
            readers = self._readers()
            if self._reader_uri != failed or len(readers) < 2:
                return
            at = readers.index(failed) if failed in readers else -1
            self._reader_uri = readers[(at + 1) % len(readers)]
            session, self._probe_session = self._probe_session, None
        if session is not None:
            session.close()

    def _session_for_probes(self) -> Session:
        with self._lock:
            if self._probe_session is None:
                self._probe_session = self.session()
            return self._probe_session

    def _read(self, ask: Callable[[], T]) -> T:
        """A read may be repeated: it changes nothing. Only a node that did not answer at all is tried again."""
        deadline_s = time.monotonic() + self._read_retry_s
        while True:
            try:
                return ask()
            except Unavailable as error:
                if UNREACHABLE not in error.details or time.monotonic() > deadline_s:
                    raise
                self._fail_over(error.details[UNREACHABLE])
            time.sleep(_BACKOFF_S)
