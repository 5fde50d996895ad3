"""Floor 8: verbs that look after a data directory and a remote log as a whole.

    adopt     volumes that the catalog does not know
    fsck      the verification of both sides
    findings  what it reports
    mending   what a machine can write again on the remote
    collect   the removal of volumes and files that nothing uses

They may import everything below the engine. Each verb that changes something has a plan, which is
shown before it is carried out.
"""
