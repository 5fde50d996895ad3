"""Plugins of other programs, each loaded by its program alone; nothing here is imported by others.

`sqlalchemy` is the dialect of `graft://tag`, `datasette` and `sqlite_utils` are plugins; the
backend of Django is `graft_vfs.django`, where Django's settings name it. `opening` is what they
share. Each is found by the entry point in pyproject.toml, and needs the program it is for.
"""
