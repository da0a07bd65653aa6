"""Where rows come from: files of captures and columns, and a simulated exchange.

In: a path and a format's name. Out: Arrow batches per table, cut the same way every time, so that a producer that
starts again sends the same batches under the same numbers. Nothing here knows a server.
"""
