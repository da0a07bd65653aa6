"""The query service: any query of any table, from the owners' memory and from ClickHouse, as one table.

In come JSON queries (Flight, DoExchange sessions, gRPC); out go Arrow rows in Order and a receipt. It holds no state
that is worth keeping: a catalog mirror, attached hot sets, connections.

    node        the process: what starts, in which order it stops
    doors       Flight; `servicer` gRPC
    runner      one query: verb, deadline, cancel, counters
    hot         owners' hot sets: attached on this host (`attached`), by Flight elsewhere (`remote`)
    cold        the operators' statements to ClickHouse
    sql         SQL: plan (a) in the embedded engine (`engine`), plan (b) in ClickHouse; `relation` is a table's text
"""
