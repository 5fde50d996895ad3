"""The application that brings `manage.py graft`."""

from __future__ import annotations

from django.apps import AppConfig


class GraftConfig(AppConfig):
    """Named apart from Django itself, whose name is the last part of the package's."""

    name = "graft_vfs.django"
    label = "graft_vfs"
    verbose_name = "graft_vfs"
