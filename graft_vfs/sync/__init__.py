"""Floor 7: moving commits between a volume and its remote log, and between volumes.

    fetch, pull, push   git's verbs
    build      a commit object from any source of pages
    settle     how a claim ended, and the branch on the commit that it won
    clone      making volumes: empty, cloned, forked, checked out
    parents    the logs that a fork stands on
    naming     the ref of a log that got its first commit
    joining    a tag that is opened with `remote=`
    proof      whether a remote is the one that a log lives in
    recognise  local commits that the log holds already

A verb proves before it concludes: an outcome that it cannot prove is recorded as unknown and
settled later by reading. Pushes of a volume are serialised by its push lock.
"""
