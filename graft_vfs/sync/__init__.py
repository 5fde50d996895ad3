"""Floor 7: moving commits between a volume and its remote log, and between volumes.

    fetch, pull, push   git's verbs
    build      a commit object from any source of pages
    settle     how a claim ended, and the branch on the commit that it won
    clone      creating volumes: empty, cloned, forked, checked out
    parents    the logs that a fork is based on
    naming     creating the ref of a log after its first commit
    joining    opening a tag with `remote=`
    proof      verifying that a remote has a log's history
    recognise  local commits that the log already has

A verb concludes nothing without proof: an unproved outcome is recorded as unknown and settled later
by reading. Pushes of a volume are serialised by its push lock.
"""
