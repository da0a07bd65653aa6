"""The hot set: the recent rows of a shard, in shared memory.

In: record batches with their offsets, from the shard's one writer (`HotSet`). Out: exact answers as of one instant
(`HotReader.run`), in the owner or in any process of its host that was handed the descriptor. Nothing here is durable:
the write-ahead log is; rows are visible once `HotSet.publish` has returned.

The memory layout and the reader's protocol are described in docs/formats/hot.md.
"""
