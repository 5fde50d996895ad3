"""Settings of the project; the database is the tag `library`."""

import os

SECRET_KEY = "of no use"
DATABASES = {
    "default": {
        "ENGINE": "graft_vfs.django",
        "NAME": os.environ.get("LIBRARY_TAG", "library"),
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
    },
    "archive": {"ENGINE": "graft_vfs.django", "NAME": "archive"},
}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "graft_vfs.django",
    "library",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
