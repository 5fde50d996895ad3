"""Floor 6: one database as SQLite's pager sees it.

    snapshot_file   the methods that SQLite calls on a snapshot, to read it
    tagged_file     the same on the newest snapshot of the volume that a tag names
    volume_file     the same with write transactions: the states of a connection
    journal         the rollback journal, synthesised from the pages of the transaction
    tagged          the tag of a connection, and the volume that it names now
    unread          a connection that has not read a page yet
    snapshots       connections on snapshots, for SQL below the engine
    scratch         a database over a snapshot whose pages never go into the volume
    moved           page 1 for a connection whose tag names another volume now
    sqlite_errors   which exception is which result code
    interrupts      exceptions that come between two of our lines

It may import volumes and what is below them. A method returns success to SQLite only for what has
happened, and raises for everything else.
"""
