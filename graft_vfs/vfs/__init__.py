"""Floor 10: file names become volumes, for SQLite through APSW and through Python's `sqlite3`.

    file_system      opens volumes, their journals and temporary files
    names            names that are meant for plain files
    pragmas          the verbs of the engine as SQL
    registry         `register`, `connect`, `enable_sqlite3`
    sqlite3_bridge   the same VFS in the SQLite library that Python's `sqlite3` uses

What concerns files that are no volumes is answered by SQLite's built-in VFS.
"""
