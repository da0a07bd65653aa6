"""The settings of every service as docs/operations.md shows them; run it to print what belongs between the markers."""

from __future__ import annotations

from proxist.config import ServiceConfig, default_text
from proxist_controlplane.config import DEFAULTS as CONTROLPLANE
from proxist_controlplane.config import ControlPlaneConfig
from proxist_ingest.config import DEFAULTS as INGEST
from proxist_ingest.config import IngestConfig
from proxist_persister.config import DEFAULTS as PERSISTER
from proxist_persister.config import PersisterConfig
from proxist_query.config import DEFAULTS as QUERY
from proxist_query.config import QueryConfig

SERVICES = {
    "ingest": (IngestConfig, INGEST),
    "query": (QueryConfig, QUERY),
    "persister": (PersisterConfig, PERSISTER),
    "controlplane": (ControlPlaneConfig, CONTROLPLANE),
}
HEAD = ["| setting | default | |", "|---|---|---|"]


def page() -> str:
    """The whole block, Markdown."""
    lines = ["Every service has", "", *HEAD]
    for name in ServiceConfig.model_fields:
        own = [default_text(cls, name, defaults) for cls, defaults in SERVICES.values()]
        lines.append(row(ServiceConfig, name, own[0] if len(set(own)) == 1 else ", ".join(own)))
    lines += ["", "(four defaults: of ingest, query, persister and control plane)"]
    for service, (cls, defaults) in SERVICES.items():
        names = [name for name in cls.model_fields if name not in ServiceConfig.model_fields]
        if names:
            lines += ["", f"and `{service}` besides", "", *HEAD]
            lines += [row(cls, name, default_text(cls, name, defaults)) for name in names]
    return "\n".join(lines)


def row(cls: type[ServiceConfig], name: str, default: str) -> str:
    sentence = " ".join((cls.model_fields[name].description or "").split())
    assert sentence, f"{cls.__name__}.{name} says nothing"
    return f"| `{name}` | {default} | {sentence} |"


if __name__ == "__main__":
    print(page())
