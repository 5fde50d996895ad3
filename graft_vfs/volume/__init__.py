"""Floor 5: the local half of a database, on top of what its branch sees of the remote log.

    volume         one open volume: its current branch, with commits on it
    current_branch the newest snapshot, the writer lock, following and switching branches
    recovery       reading a branch from its log
    description    having `volume.json` name the current branch
    branch         page to newest offset in the branch log, with history for open snapshots
    snapshot       an immutable view: local images over remote ones
    transaction    the pages that one writer has staged or spilled
    switching      prepare, write, switch: the only way to another current branch
    rotation       replacing the file of a branch by a shorter one
    incoherent     a volume on a file system where the mapped head may show an old state
    open_volumes   the volumes that an engine has open
    context        the parts of an engine that verbs receive together, and an open volume by its tag

A snapshot never changes, and every commit is one append to the branch log. Nothing here knows
SQLite's locks or the verbs of synchronisation.
"""
