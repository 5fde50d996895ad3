"""Floor 10: file names become volumes, for SQLite through APSW and through Python's `sqlite3`.

    file_system      opens volumes, their journals and temporary files
    names            names that look like plain files
    pragmas          the verbs of the engine as SQL
    registry         `register`, `connect`, `enable_sqlite3`
    sqlite3_bridge   the same VFS in the SQLite library of Python's `sqlite3`

SQLite's built-in VFS handles all files that are not volumes.
"""
