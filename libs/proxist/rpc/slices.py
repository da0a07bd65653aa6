"""How large one message of a stream may be."""

from __future__ import annotations

import pyarrow as pa

SLICE_ROWS_MAX = 65_536
SLICE_BYTES_MAX = 1 << 20
"""No message is larger: other languages' clients refuse 4 MB by default, and a cancel is seen between messages."""


def slices(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """The batch cut into messages of at most SLICE_ROWS_MAX rows and about SLICE_BYTES_MAX bytes; never empty."""
    if batch.num_rows <= SLICE_ROWS_MAX and batch.get_total_buffer_size() <= SLICE_BYTES_MAX:
        return [batch]  # whole buffers bound what is sent; counting exactly takes longer than a small answer
    row_bytes = batch.nbytes / batch.num_rows if batch.num_rows else 0.0
    step = SLICE_ROWS_MAX if row_bytes == 0 else max(1, min(SLICE_ROWS_MAX, int(SLICE_BYTES_MAX / row_bytes)))
    if batch.num_rows <= step:
        return [batch]
    return [batch.slice(first, step) for first in range(0, batch.num_rows, step)]
