"""Everything that services tell a collector, whole: names, attributes, events, links, status, resource."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToJson

from proxist.telemetry.collector import THREADS, Collector


class Wiretap(Collector):
    """A receiver that also keeps each request as it came. `_kept` guards the requests."""

    def __init__(self) -> None:
        self._kept = threading.Lock()
        self._requests: list[Any] = []
        super().__init__()
        # All threads of its pool now: one that begins during a module's tests would count as left behind by them.
        everyone = threading.Barrier(THREADS + 1)
        for _ in range(THREADS):
            self._pool.submit(everyone.wait, 10.0)
        everyone.wait(10.0)

    def Export(self, request: Any, context: Any) -> Any:
        with self._kept:
            self._requests.append(request)
        return super().Export(request, context)

    def texts(self, trace_id: str | None = None) -> Iterator[tuple[str, str]]:
        """(name, all of it as JSON) of each span, of one trace where it is named, and of each resource and scope."""
        with self._kept:
            requests = list(self._requests)
        for request in requests:
            for group in request.resource_spans:
                for scope in group.scope_spans:
                    for span in scope.spans:
                        if trace_id in (None, span.trace_id.hex()):
                            yield span.name, MessageToJson(span, ensure_ascii=False)
                    yield "scope", MessageToJson(scope.scope, ensure_ascii=False)
                yield "resource", MessageToJson(group.resource, ensure_ascii=False)
