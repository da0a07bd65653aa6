"""One Flight endpoint as the SDK uses it: a FlightPeer with answers, sessions and put streams of its own shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import flight

from proxist.client.answer import Answer
from proxist.errors import InvalidArgument, Unavailable
from proxist.model.receipt import RECEIPT_METADATA_KEY
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.status import from_flight
from proxist.rpc.tls import Tls

UNREACHABLE = "unreachable"
"""Key in the details of an Unavailable that no server sent: nobody answered at `details["unreachable"]`."""
_SCHEMES = ("grpc", "grpc+tcp", "grpc+tls", "grpc+unix")


def check_uri(uri: str, tls: Tls) -> str:
    """`host:port` is grpc+tls://host:port where `tls` has a file, else grpc://host:port. Raises InvalidArgument for a scheme
    that is not Flight's."""
    if "://" not in uri:
        uri = f"{'grpc+tls' if tls.asked else 'grpc'}://{uri}"
    scheme, _, rest = uri.partition("://")
    if scheme not in _SCHEMES or not rest:
        raise InvalidArgument(
            f"{uri!r} is not a Flight endpoint: it must be one of {', '.join(_SCHEMES)}, then :// and an address. "
            "Connect for example to grpc://127.0.0.1:8815."
        )
    return uri


class Wire(FlightPeer):
    """Calls to one endpoint; safe for several threads. The connection is made by the first call and again after a break."""

    def get(self, query: Mapping[str, Any], timeout_s: float) -> Answer:
        """Rows are complete or an error is raised."""
        found = self.do_get(query, timeout_s=timeout_s)
        receipt = found.metadata.get(RECEIPT_METADATA_KEY) or found.app_metadata
        return Answer(found.table.replace_schema_metadata(None), receipt)

    def action(self, name: str, body: Mapping[str, Any], timeout_s: float) -> Any:
        """The JSON result of a DoAction, None where it has none."""
        results = self.do_action(name, body, timeout_s=timeout_s)
        return results[0] if results else None

    def _typed(self, error: BaseException) -> BaseException:
        typed = super()._typed(error)
        if isinstance(typed, Unavailable) and not getattr(error, "extra_info", None):
            typed.details[UNREACHABLE] = self.uri
        return typed

    def open_put(self, table: str, schema: pa.Schema) -> tuple[Any, Any]:
        """Raw writer and ack reader of a DoPut without deadline, since a feed may live for days.

        Raw, because closing a stream while another thread writes to it aborts the process: PutStream of this package
        orders the two.
        """
        try:
            return self._client.do_put(
                flight.FlightDescriptor.for_path(table), schema, flight.FlightCallOptions(headers=self._auth())
            )
        except pa.ArrowException as error:
            raise from_flight(error, self.uri) from None
