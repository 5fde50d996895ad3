"""Floor 2: the files of a data directory, independent of remote logs.

    layout       what the files and directories are called
    files, ownership, file_systems, mapping   system calls, owners, and what a file system allows
    locks, head, head_words   how processes exclude each other and detect changes
    branch_file, branch_log, chunk   the local commits of one volume, in one append-only file
    tag_moves    moving a tag so that no process commits to its previous volume
    catalog/     volumes, tags and branches
    cache/       fetched frames of remote logs

It imports neither formats of remote objects nor stores; import-linter checks this. Data that a
method calls durable is synced before the method returns.
"""
