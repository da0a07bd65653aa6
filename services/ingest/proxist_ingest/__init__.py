"""The ingest service: owner of shards. In: batches over Flight. Out: acks, reads of what is in memory, the follow stream.

A batch is validated and encoded by the thread that received it (`put`, `validate`, `split`), queued for its shard
(`inbox`), and then, on the shard's one writer thread (`shard`, `commit`): checked against its producer's numbers, given
offsets, written to the log and flushed, published in the hot set, acked. An ack names the level that is true: `os` is
written to the log file, `disk` flushed, `cold` confirmed in ClickHouse by the persister (`ladder`).

`recover` and `opening` make a shard from its logs, under a new epoch; `keeper` opens what the catalog places here; `node`
starts and stops it all and leaves service when the lease or a log fails; `follow` is what a persister reads, `reads`
what everybody else does; `doors` and `servicer` are the Flight and gRPC doors.
"""
