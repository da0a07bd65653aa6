"""Switches a service's tracing on, as the standard OTEL_* variables say; without them it is off.

On where `OTEL_TRACES_EXPORTER` is `otlp` or `console`, or an `OTEL_EXPORTER_OTLP_ENDPOINT` (or …_TRACES_ENDPOINT) is
set; off where `OTEL_SDK_DISABLED` is true or the exporter is `none`. The SDK itself reads the others: sampler
(`OTEL_TRACES_SAMPLER`, …_ARG), resource (`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`), limits, batching
(`OTEL_BSP_…`), propagators, and the exporter's address, headers, certificates and timeout.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import proxist
from proxist.errors import ConfigError
from proxist.telemetry import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Sampler

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_provider: Any = None


def exporter_wanted(environment: Mapping[str, str]) -> str | None:
    """ "otlp", "console", or None where tracing is off. Raises ConfigError for what is not there."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not named:
        named = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    if named == "none":
        return None
    if named not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {named!r}, but must be otlp, console or none. Set one of them.")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "grpc")
    if named == "otlp" and protocol != "grpc":
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, but services send OTLP over grpc only. Unset it, and name the "
            "collector's gRPC port (4317 as a rule) in OTEL_EXPORTER_OTLP_ENDPOINT."
        )
    return named


def configure(role: str, name: str, *, trust_callers: bool = True) -> bool:
    """Decide for this process, once, at its start; whether tracing is on. Raises ConfigError."""
    global _provider
    wanted = exporter_wanted(os.environ)
    if wanted is None:
        tracing.decide(None)
        return False
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    from proxist.telemetry.spans import Api

    exporter: Any
    if wanted == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    _provider = provider(role, name)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing.decide(Api(_provider.get_tracer(tracing.SCOPE, proxist.__version__), trust_callers=trust_callers))
    return True


def provider(role: str, name: str) -> TracerProvider:
    """A provider whose resource names the service; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    ours = {
        "service.name": f"proxist-{role}",
        "service.namespace": "proxist",
        "service.instance.id": name,
        "service.version": proxist.__version__,
    }
    named = OTELResourceDetector().detect().attributes
    resource = Resource({**Resource.create().attributes, **ours, **named})
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.sampler = _with_links(made.sampler)
    return made


def flush(timeout_s: float = 2.0) -> None:
    """Send what is left and stop; after `timeout_s` at most, for a collector may be gone."""
    if _provider is None:
        return
    closing = threading.Thread(target=_provider.shutdown, name="spans-flush", daemon=True)
    closing.start()
    closing.join(timeout_s)


def _with_links(inner: Sampler) -> Sampler:
    """`inner`, but a span that is linked to a sampled one is sampled: a persister's batch belongs to its writes."""
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    class Linked(Sampler):
        def should_sample(
            self,
            parent_context: Any,
            trace_id: int,
            name: str,
            kind: Any = None,
            attributes: Any = None,
            links: Sequence[Any] | None = None,
            trace_state: Any = None,
        ) -> SamplingResult:
            if links and any(link.context.trace_flags.sampled for link in links):
                return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
            return inner.should_sample(parent_context, trace_id, name, kind, attributes, links)

        def get_description(self) -> str:
            return f"Linked({inner.get_description()})"

    return Linked()
