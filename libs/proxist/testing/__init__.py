"""Real parts that can be broken on command, for users' tests and for our own. docs/testing.md shows how.

    cluster                 a whole cluster: `proxist up` as a process
    etcd, clickhouse        one real store, killed, frozen and started again with its data
    nursery                 many short lives of one service, forked from a process that has imported it
    process                 SIGSTOP, SIGCONT and kill -9 that are done when they return
    network_proxy           TCP that is slow, silent, half-closed or cut
    clickhouse_proxy        a ClickHouse that times out, lies, stalls, resets and answers by halves
    faulty_files, disk      files that fail and fill up, and what a loss of power may leave of them
    clock                   a clock that stands still until it is turned
    tls                     development certificates, made anew under a running test
    clickhouse_conformance  what is relied on in a ClickHouse server, with clickhouse_store and clickhouse_types

Named points at which a process dies, stops, fails or is slow are in `proxist.failpoints`.
"""
