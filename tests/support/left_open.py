"""Connections that Datasette leaves open, about which Python warns since 3.13."""

from __future__ import annotations

CONNECTIONS_LEFT_OPEN = "ignore:unclosed database:ResourceWarning"
"""A filter of warnings for tests with Datasette only.

Datasette queries SQLite's features in connections to `:memory:` and does not close them.
"""
