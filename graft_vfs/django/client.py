"""`manage.py dbshell`: APSW's shell on the volume, because `sqlite3` knows no volumes."""

from __future__ import annotations

import apsw.shell
from django.core.management.base import CommandError
from django.db.backends.base.client import BaseDatabaseClient

import graft_vfs
from graft_vfs.advice import Audience, words


class DatabaseClient(BaseDatabaseClient):
    """The shell in this process, on a connection of its own."""

    executable_name = "apsw"

    def runshell(self, parameters: list[str]) -> None:
        """Run the parameters as SQL or dot commands, or read them if there are none.

        Raises CommandError for an option of the program `sqlite3`, and if an input failed.
        """
        options = [parameter for parameter in parameters if parameter.startswith("-")]
        if options:
            raise CommandError(
                f"{options[0]} is an option of sqlite3; give SQL or dot commands, such as "
                "'.mode json' 'SELECT 1'"
            )
        # The backend's own parameters, so that what Django opens is what the shell opens.
        name = self.connection.get_connection_params()["database"]
        connection = graft_vfs.connect(name)
        try:
            shell = apsw.shell.Shell(db=connection)
            if not parameters:
                shell.cmdloop()
                return
            for line in parameters:
                shell.process_complete_line(line)
        except apsw.Error as error:
            raise CommandError(words(error, Audience.CLI)) from error
        finally:
            connection.close()
