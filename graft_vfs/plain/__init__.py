"""Plain SQLite files: reading one without disturbing the programs that use it."""
