"""Django on a volume: migrate, use the ORM, publish with a push, and read an earlier state."""

from __future__ import annotations

import tempfile
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections, models, transaction

import graft_vfs
from graft_vfs import Config, RemoteConfig

ENGINE = "graft_vfs.django"


def configure() -> None:
    """Set up Django as a settings module would."""
    settings.configure(
        DATABASES={
            "default": {"ENGINE": ENGINE, "NAME": "shop"},
            # The same volume as it was at remote LSN 1, read-only.
            "first": {"ENGINE": ENGINE, "NAME": "shop", "OPTIONS": {"lsn": 1}},
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        USE_TZ=True,
    )
    django.setup()


def main() -> None:
    """Migrate an application of Django's own, and let two states of it be seen side by side."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        engine = graft_vfs.register(Config(data_dir=here / "data", remote=remote))
        configure()
        call_command("migrate", verbosity=0)

        from django.contrib.auth.models import Group  # noqa: PLC0415 - models need the set-up

        with transaction.atomic():
            Group.objects.create(name="readers")
            Group.objects.create(name="writers")
        print(engine.push("shop"))

        Group.objects.filter(name="writers").delete()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA graft_push")
            print(cursor.fetchone()[0])

        print("now: ", names(Group.objects))
        print("then:", names(Group.objects.using("first")))
        connections.close_all()
        graft_vfs.unregister()


def names(groups: models.Manager) -> list[str]:
    """Return the names of groups, in order."""
    return list(groups.order_by("name").values_list("name", flat=True))


if __name__ == "__main__":
    main()
