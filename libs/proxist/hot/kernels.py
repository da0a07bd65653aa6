"""All kernels, compiled: importing this module means ready. Other modules import kernels from here only."""

from __future__ import annotations

from proxist.hot.jit import compiling

with compiling():
    from proxist.hot import (
        kernels_dictionary as dictionary,
    )
    from proxist.hot import (
        kernels_evict as evict,
    )
    from proxist.hot import (
        kernels_gather as gather,
    )
    from proxist.hot import (
        kernels_lookback as lookback,
    )
    from proxist.hot import (
        kernels_prepared as prepared,
    )
    from proxist.hot import (
        kernels_read as read,
    )
    from proxist.hot import (
        kernels_scaled as scaled,
    )
    from proxist.hot import (
        kernels_summary as summary,
    )
    from proxist.hot import (
        kernels_sums as sums,
    )
    from proxist.hot import (
        kernels_window as window,
    )
    from proxist.hot import (
        kernels_write as write,
    )

__all__ = [
    "dictionary",
    "evict",
    "gather",
    "lookback",
    "prepared",
    "read",
    "scaled",
    "summary",
    "sums",
    "window",
    "write",
]
