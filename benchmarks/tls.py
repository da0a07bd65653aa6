"""What TLS costs: acks and last-by of a plain cluster, and of one with TLS, certificates on both sides and tokens."""

from __future__ import annotations

from benchmarks.calls import calls, loaded
from benchmarks.paired import Variant, compare
from benchmarks.report import Report
from benchmarks.rows import Rows
from proxist.cli.demo_cluster import demo_cluster


def measure(report: Report, rows: Rows) -> None:
    """Both clusters at a time, turn by turn: the one that is not asked rests."""
    report.section("the price of TLS and tokens per call (ratio: to plain)")
    with (
        demo_cluster() as open_doors,
        demo_cluster(tls=True) as guarded_doors,
        loaded(open_doors, rows) as one,
        loaded(guarded_doors, rows) as other,
        calls(one, rows) as plain,
        calls(other, rows) as secured,
    ):
        for what, call in plain.items():
            found = compare({"plain": Variant(call), "TLS and token": Variant(secured[what])})
            for mode, compared in found.items():
                base_s = found["plain"].typical.p50_s
                report.timed(f"{what}: {mode}", compared.typical, base_s, "" if mode == "plain" else str(compared))
