"""Floor 3: how objects make a log.

    log             the commits and segments of one remote log, and their keys
    entries         small create-only objects that are listed by a prefix
    refs            names of logs
    names           names of commits
    remotes         the stores, each opened when a log on it is used
    body            the frames of a commit in its object, read and verified
    commit_reader   reads commits ahead, in bounded memory
    request_threads the threads of one verb
    claim           the conditional write that claims the next LSN, and its outcome

It may import formats, stores and the files of the data directory. A commit's key is written once;
this write is the claim, and the only lock of a remote log. The one exception is an explicit repair,
which overwrites a damaged commit with its original bytes (`maintenance.mending`).
"""
