"""Floor 6: one database as SQLite's pager sees it.

    snapshot_file   the methods by which SQLite reads a snapshot
    tagged_file     the same for the newest snapshot of a tag's volume
    volume_file     the same with write transactions: the states of a connection
    journal         the rollback journal, reconstructed from the transaction's pages
    tagged          the tag of a connection, and its current volume
    unread          a connection that has not read a page yet
    snapshots       connections on snapshots, for SQL below the engine
    scratch         a writable database over a snapshot, outside the volume
    moved           page 1 for a connection that was moved to another volume
    sqlite_errors   the mapping of exceptions to result codes
    interrupts      exceptions that signal handlers raise between two of our lines

It may import volumes and lower floors. A method returns success to SQLite only if the operation has
succeeded, and raises otherwise.
"""
