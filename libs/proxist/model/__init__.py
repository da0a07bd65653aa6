"""The words of the design as plain, frozen values: no I/O, no clock, no thread.

`ids` (shards, epochs, offsets), `table` (specs, schemas, routing), `token`, `receipt`, `query` (the JSON query),
`types` (Arrow type names) and `units` (durations, sizes, times).
"""
