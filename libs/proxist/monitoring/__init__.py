"""What watches a cluster, written as code. In: the metrics' catalogue. Out: docs/metrics.md, Grafana dashboards, Prometheus rules.

`python -m proxist.monitoring` writes them into the repository, `--check` says which are stale.
"""
