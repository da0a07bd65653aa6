"""What Proxist relies on in a ClickHouse server. The embedded server and a real one pass the same checks.

Each function of `CHECKS` takes a `Store` and asserts; it leaves nothing behind that another would see.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import uuid
from collections.abc import Callable
from typing import Any

import clickhouse_connect
import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from proxist.clickhouse import INSERT_ROWS_MAX, partition_of
from proxist.errors import InvalidArgument, NotFound, ProxistError
from proxist.model.ids import Offset, ShardId
from proxist.testing.clickhouse_store import Store, count_of, rows_of
from proxist.testing.clickhouse_types import (
    every_type_round_trips,
    external_data_has_every_type,
    partitions_are_utc_days,
)

# ---- inserts -------------------------------------------------------------------------------------------------------


def one_insert_is_one_part(store: Store) -> None:
    table = store.table({"name": "x", "type": "int64"}, seq=True)
    store.clickhouse.insert(table, rows_of(table, INSERT_ROWS_MAX, x=pa.array(np.arange(INSERT_ROWS_MAX))), "a")
    parts = store.clickhouse.query(
        f"SELECT rows, level, partition FROM system.parts WHERE database = 'conformance' AND table = '{table.name}' "
        "AND active"
    )
    assert parts.to_pylist() == [{"rows": INSERT_ROWS_MAX, "level": 0, "partition": partition_of(10**18)}]
    store.clickhouse.drop_table(table)


def a_token_is_inserted_once(store: Store) -> None:
    table = store.table()
    for _ in range(3):
        store.clickhouse.insert(table, rows_of(table, 10), "log:0-10:20010909")
    store.clickhouse.insert(table, rows_of(table, 10, first=10), "log:10-20:20010909")
    assert count_of(store, table) == 20
    store.clickhouse.drop_table(table)


def the_token_decides_and_not_the_content(store: Store) -> None:
    """Equal rows are genuine trades: other tokens, other rows."""
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 10), "one")
    store.clickhouse.insert(table, rows_of(table, 10), "two")
    assert count_of(store, table) == 20
    store.clickhouse.drop_table(table)


def rows_of_two_partitions_are_refused(store: Store) -> None:
    table = store.table()
    two_days = pa.array([0, 86_400 * 10**9]).view(pa.timestamp("ns", tz="UTC"))
    with pytest.raises(ValueError, match="one partition"):
        store.clickhouse.insert(table, rows_of(table, 2, ts=two_days), "two days")
    assert count_of(store, table) == 0
    store.clickhouse.drop_table(table)


def a_missing_table_is_named(store: Store) -> None:
    table = store.table()
    store.clickhouse.drop_table(table)
    with pytest.raises(NotFound) as caught:
        store.clickhouse.insert(table, rows_of(table, 1), "x")
    assert caught.value.details["clickhouse_name"] == "UNKNOWN_TABLE"
    assert table.name in caught.value.message


def creating_and_dropping_twice_is_harmless(store: Store) -> None:
    table = store.table()
    store.clickhouse.create_table(table)
    store.clickhouse.drop_table(table)
    store.clickhouse.drop_table(table)


def read_back_names_what_is_there(store: Store) -> None:
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 10), "a")
    store.clickhouse.insert(table, rows_of(table, 5, first=20), "b")
    store.clickhouse.insert(table, rows_of(table, 1, first=22), "c")
    other = rows_of(table, 3, first=5, _log=pa.array([8 << 24] * 3, pa.uint64()))
    store.clickhouse.insert(table, other, "another shard's")
    present = store.clickhouse.offsets_present(table, ShardId(7), Offset(8))
    assert present["_offset"].to_pylist() == [8, 9, 20, 21, 22, 23, 24]
    assert present["copies"].to_pylist() == [1, 1, 1, 1, 2, 1, 1]
    assert set(present["_log"].to_pylist()) == {(7 << 24) + 1}
    below = store.clickhouse.offsets_present(table, ShardId(7), Offset(0), Offset(3))
    assert below["_offset"].to_pylist() == [0, 1, 2]
    store.clickhouse.drop_table(table)


# ---- queries -------------------------------------------------------------------------------------------------------


def errors_carry_code_and_name(store: Store) -> None:
    for sql, code, name in (
        ("SELECT * FROM nowhere_at_all", 60, "UNKNOWN_TABLE"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT nothing_of_that_name", 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ):
        with pytest.raises(ProxistError) as caught:
            store.clickhouse.query(sql)
        details = caught.value.details
        assert (details["clickhouse_code"], details["clickhouse_name"]) == (code, name)
        assert isinstance(caught.value, NotFound if code == 60 else InvalidArgument)
        assert "version" not in caught.value.message
        with pytest.raises(DatabaseError) as plain:
            store.plain.query(sql)
        assert (plain.value.code, plain.value.name) == (code, name)


def settings_and_parameters_reach_the_statement(store: Store) -> None:
    answer = store.clickhouse.query("SELECT getSetting('max_threads') AS n", settings={"max_threads": 3})
    assert answer["n"].to_pylist() == [3]
    odd = "it's a \"tab\t\\ and \n é"
    assert store.plain.query("SELECT {x:String}", parameters={"x": odd}).result_rows == [(odd,)]
    assert store.plain.query("SELECT %(x)s", parameters={"x": odd}).result_rows == [(odd,)]
    both = store.plain.query("SELECT {a:Array(UInt8)}, {b:Nullable(String)}", parameters={"a": [1, 2], "b": None})
    assert both.result_rows == [([1, 2], None)]
    with pytest.raises(InvalidArgument, match="UNKNOWN_SETTING"):
        store.clickhouse.query("SELECT 1", settings={"no_such_setting": "1"})


def settings_end_with_their_statement(store: Store) -> None:
    store.clickhouse.query("SELECT 1", settings={"max_threads": 3, "readonly": 1})
    answer = store.clickhouse.query("SELECT getSetting('max_threads') AS n, getSetting('readonly') AS r")
    assert (answer["n"][0].as_py() != 3, answer["r"][0].as_py()) == (True, 0)


def readonly_statements_cannot_write(store: Store) -> None:
    with pytest.raises(ProxistError, match="READONLY"):
        store.clickhouse.query("CREATE DATABASE never", settings={"readonly": 1})


def a_time_bound_ends_the_statement(store: Store) -> None:
    with pytest.raises(ProxistError) as caught:
        store.clickhouse.query(
            "SELECT sum(sleepEachRow(1)) FROM numbers(100) SETTINGS max_block_size = 1", timeout_s=0.2
        )
    assert caught.value.code == "DEADLINE_EXCEEDED"


def external_data_lives_for_one_statement(store: Store) -> None:
    external = {"tail": pa.table({"k": ["a", "b"], "v": [1, None]})}
    answer = store.clickhouse.query("SELECT k, v FROM tail ORDER BY k", external)
    assert answer.to_pylist() == [{"k": "a", "v": 1}, {"k": "b", "v": None}]
    empty = {"tail": external["tail"].slice(0, 0)}
    assert store.clickhouse.query("SELECT count() AS c FROM tail", empty)["c"].to_pylist() == [0]
    with pytest.raises(NotFound):
        store.clickhouse.query("SELECT k FROM tail")
    csv = ExternalData(file_name="m.csv", data=b"1,a\n2,b\n", fmt="CSV", structure="x UInt8, y String")
    assert store.plain.query("SELECT x, y FROM m ORDER BY x", external_data=csv).result_rows == [(1, "a"), (2, "b")]


def a_long_statement_with_external_data_passes(store: Store) -> None:
    numbers = ", ".join(str(n) for n in range(30_000))
    answer = store.clickhouse.query(
        f"SELECT count() AS c FROM tail WHERE v IN ({numbers})", {"tail": pa.table({"v": [5]})}
    )
    assert answer["c"].to_pylist() == [1]


def bytes_that_are_not_text_come_back_as_binary(store: Store) -> None:
    answer = store.clickhouse.query("SELECT unhex('ff00') AS b, 'é' AS s")
    assert answer.schema.field("b").type == pa.binary()
    assert answer.to_pylist() == [{"b": b"\xff\x00", "s": "é"}]


def an_empty_answer_has_its_columns(store: Store) -> None:
    answer = store.clickhouse.query("SELECT 1 AS a, 'x' AS b WHERE 0")
    assert (answer.num_rows, answer.schema.names) == (0, ["a", "b"])


def statements_run_at_once(store: Store) -> None:
    """Twenty threads with data, external data and settings of their own do not see each other's."""

    def one(n: int) -> list[Any]:
        external = {"tail": pa.table({"v": pa.array(range(n), pa.int64())})}
        sql = "SELECT count() AS c, getSetting('max_threads') AS t FROM tail"
        return store.clickhouse.query(sql, external, {"max_threads": 1 + n % 4}).to_pylist()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(40)))
    assert answers == [[{"c": n, "t": 1 + n % 4}] for n in range(40)]


def a_plain_client_works(store: Store) -> None:
    """What any user of clickhouse-connect does: commands, inserts of rows, Arrow and frames, queries, streams."""
    name = f"conformance.p_{uuid.uuid4().hex[:12]}"
    plain = store.plain
    plain.command("CREATE DATABASE IF NOT EXISTS conformance")
    plain.command(f"CREATE TABLE {name} (a UInt64, b Nullable(String), t DateTime64(9)) ENGINE = MergeTree ORDER BY a")
    now = datetime.datetime(2024, 8, 9, 1, 2, 3, 456_789)
    summary = plain.insert(name, [[1, "x", now], [2, None, now]], column_names=["a", "b", "t"])
    assert summary.written_rows == 2
    plain.insert_arrow(
        name, pa.table({"a": pa.array([3], pa.uint64()), "b": ["y"], "t": pa.array([1], pa.timestamp("ns"))})
    )
    plain.raw_insert(name, ["a", "b"], "4,z\n5,w\n", fmt="CSV")
    assert plain.query(f"SELECT a, b FROM {name} ORDER BY a").result_rows == [
        (1, "x"), (2, None), (3, "y"), (4, "z"), (5, "w"),
    ]  # fmt: skip
    assert plain.query(f"SELECT t FROM {name} WHERE a = 1").result_rows == [(now,)]
    assert plain.query_arrow(f"SELECT a FROM {name} ORDER BY a")["a"].to_pylist() == [1, 2, 3, 4, 5]
    assert plain.command(f"SELECT count() FROM {name}") == 5
    with plain.query_row_block_stream("SELECT number FROM numbers(100000)") as stream:
        assert sum(len(block) for block in stream) == 100_000
    assert plain.query("SELECT 1 AS a LIMIT 0").column_names == ("a",)
    assert plain.raw_query("SELECT 1", fmt="CSV") == b"1\n"
    assert plain.ping()
    plain.command(f"DROP TABLE {name}")


def every_compression_is_understood(store: Store) -> None:
    for coding in (False, "lz4", "zstd", "gzip"):
        client = clickhouse_connect.get_client(**store.options, compress=coding)
        name = f"conformance.z_{uuid.uuid4().hex[:12]}"
        client.command("CREATE DATABASE IF NOT EXISTS conformance")
        client.command(f"CREATE TABLE {name} (a UInt64) ENGINE = MergeTree ORDER BY a")
        client.insert(name, [[n] for n in range(1000)], column_names=["a"])
        assert client.query(f"SELECT sum(a) FROM {name}").result_rows == [(499_500,)]
        client.command(f"DROP TABLE {name}")
        client.close()


def databases_are_tenants(store: Store) -> None:
    answer = store.clickhouse.query("SELECT currentDatabase() AS d", database="system")
    assert answer["d"].to_pylist() == ["system"]
    with pytest.raises(NotFound, match="UNKNOWN_DATABASE"):
        store.clickhouse.query("SELECT 1", database="no_such_database")


def statements_are_counted(store: Store) -> None:
    before = store.clickhouse.statements
    store.clickhouse.query("SELECT 1")
    store.clickhouse.command("SELECT 1")
    store.clickhouse.ping()
    assert store.clickhouse.statements - before == 2


CHECKS: list[Callable[[Store], None]] = [
    one_insert_is_one_part,
    a_token_is_inserted_once,
    the_token_decides_and_not_the_content,
    rows_of_two_partitions_are_refused,
    a_missing_table_is_named,
    creating_and_dropping_twice_is_harmless,
    read_back_names_what_is_there,
    every_type_round_trips,
    external_data_has_every_type,
    partitions_are_utc_days,
    errors_carry_code_and_name,
    settings_and_parameters_reach_the_statement,
    settings_end_with_their_statement,
    readonly_statements_cannot_write,
    a_time_bound_ends_the_statement,
    external_data_lives_for_one_statement,
    a_long_statement_with_external_data_passes,
    bytes_that_are_not_text_come_back_as_binary,
    an_empty_answer_has_its_columns,
    statements_run_at_once,
    a_plain_client_works,
    every_compression_is_understood,
    databases_are_tenants,
    statements_are_counted,
]
