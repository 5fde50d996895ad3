"""Django's database backend: `ENGINE = "graft_vfs.django"`, and `NAME` is a tag.

It is Django's own backend of SQLite, whose file is a volume. `base` is what Django loads; nothing
else imports this package. With `"graft_vfs.django"` in `INSTALLED_APPS`, `manage.py graft …` runs
the command line.
"""
