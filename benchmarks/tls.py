"""What TLS costs: acks and last-by of a plain cluster, and of one with TLS, certificates on both sides and tokens."""

from __future__ import annotations

from benchmarks.calls import ROUNDS, Figures, figures, loaded, merge, percent
from benchmarks.report import Report
from benchmarks.rows import Rows
from proxist.cli.demo_cluster import demo_cluster


def measure(report: Report, rows: Rows) -> None:
    """Both clusters at a time, turn by turn: the one that is not asked rests."""
    plain: Figures = {}
    secured: Figures = {}
    with (
        demo_cluster() as open_doors,
        demo_cluster(tls=True) as guarded_doors,
        loaded(open_doors, rows) as one,
        loaded(guarded_doors, rows) as other,
    ):
        for _ in range(ROUNDS):
            merge(plain, figures(one, rows, rounds=1))
            merge(secured, figures(other, rows, rounds=1))
    report.section("the price of TLS and tokens per call (ratio: to plain)")
    for what, found in plain.items():
        report.timed(f"{what}: plain", found)
        with_tls = secured[what]
        report.timed(f"{what}: TLS and token", with_tls, found.p50_s, percent(with_tls.p50_s, found.p50_s))
