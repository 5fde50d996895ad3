"""Floor 5: the local half of a database, on top of its base in the remote log.

    volume         one open volume: its current branch, and commits
    current_branch the newest snapshot, the writer lock, following and switching branches
    recovery       reading a branch from its log
    description    keeping `volume.json` up to date with the current branch
    branch         page to newest offset in the branch log, with history for open snapshots
    snapshot       an immutable view: local images over remote ones
    transaction    the staged and spilled pages of one writer
    switching      prepare, write, switch: the only way to change the current branch
    rotation       replacing the file of a branch by a shorter one
    incoherent     a volume on a file system where the head file may be stale
    open_volumes   the volumes that an engine has open
    context        the parts of an engine that verbs receive, and an open volume with its tag

A snapshot never changes, and every commit is one append to the branch log. This floor is
independent of SQLite's locks and of the sync verbs.
"""
