"""Grafana dashboards of gpulease, written as code and kept as JSON under charts/gpulease/dashboards.

``python -m tools.dashboards`` writes the files; a test fails while a file differs from what this package builds.
"""
