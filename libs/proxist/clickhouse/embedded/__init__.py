"""The local ClickHouse: a process that owns chdb's engine and speaks ClickHouse's HTTP interface.

In comes HTTP from an unmodified clickhouse-connect, out go ClickHouse's own bytes: the engine formats and parses all
data, this package only moves it. Rows are durable as in ClickHouse itself (in the page cache when an insert returns).

`statement` splits a statement from its data, `request` reads HTTP, `engine` runs statements, `server` serves.
Not offered: sessions over several requests, users, compressed answers, cancelling by closing the connection,
`INSERT … SELECT FROM input()`, ClickHouse's own block compression (`compress=1`). Each is refused or ignored as
`request` says. Start it with `python -m proxist.clickhouse.embedded --path DIR --port N`.
"""
