"""Floor 7: naming and comparing commits.

    commits      the log of a volume, and reports on its commits
    diff         what changed between two commits, counted
    graph        the log as lines, with what is beside it
    rows         the rows that changed, with their values
    patch        the same as SQL
    tables       the tables of both, and how their rows are compared
    key_ranges   the key ranges of a table that changed pages can hold
    changed_leaves   the same, found from few changed pages alone

Reads volumes and remote logs, and changes neither.
"""
