"""Floor 2: the files of a data directory, and nothing of what a remote log is.

    layout       what the files and directories are called
    files, ownership, file_systems, mapping   calls, owners, and what a file system allows
    locks, head, head_words   how processes exclude and notice each other
    branch_file, branch_log, chunk   the local commits of one volume, in one file that only grows
    tag_moves    moving a tag so that no process commits to the volume it leaves
    catalog/     which volumes, tags and branches there are
    cache/       frames of remote logs that were fetched

It imports neither formats of remote objects nor stores; import-linter checks that. What a method
calls durable was synced before it returned.
"""
