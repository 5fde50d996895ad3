"""`manage.py graft …`: the command line `graft` with the settings of a Django project.

Django finds it with `"graft_vfs.django"` in `INSTALLED_APPS`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from graft_vfs.cli import main
from graft_vfs.cli.output import echo

_ENGINE = "graft_vfs.django"


class Command(BaseCommand):
    """Run a command of `graft`; a database's alias may stand for its tag, as in `@default`."""

    help = "Run the command line of graft; @ALIAS stands for the tag of a database of the settings."
    requires_system_checks: ClassVar[list[str]] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Run what follows `manage.py graft`, options too, and exit with graft's exit code."""
        self._run(argv[2:], program=f"{argv[0].rpartition('/')[2]} {argv[1]}")

    def add_arguments(self, parser: CommandParser) -> None:
        """Take all arguments of `call_command("graft", …)` as they are."""
        parser.add_argument("arguments", nargs="*")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run `call_command("graft", "push", "@default")`; raises SystemExit after a failure."""
        del args
        try:
            self._run(options["arguments"], program="graft")
        except SystemExit as ended:
            if ended.code:
                raise

    def _run(self, arguments: list[str], *, program: str) -> None:
        tags = {
            alias: str(settings["NAME"])
            for alias, settings in connections.settings.items()
            if settings["ENGINE"] == _ENGINE
        }
        aliases = {f"@{alias}": tag for alias, tag in tags.items()}
        try:
            main(
                args=[aliases.get(argument, argument) for argument in arguments],
                prog_name=program,
            )
        finally:
            if not arguments:
                echo("\nDatabases of the settings:")
                for alias, tag in tags.items():
                    echo(f"  @{alias}  tag {tag}")
