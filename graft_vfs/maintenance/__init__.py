"""Floor 8: verbs that maintain a data directory and a remote log as a whole.

    adopt     volumes that the catalog lacks
    fsck      the verification of both sides
    findings  what fsck reports
    mending   what a machine can rewrite on the remote
    table_*   the verification of tables, and their repair
    collect   removal of unused volumes and files

They may import everything below the engine. Each verb that changes something can first show its
plan.
"""
