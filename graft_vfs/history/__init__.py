"""Floor 7: commits as people name and compare them.

    commits      the log of a volume, and the commit that a name, LSN or time means
    diff         changed rows between two commits, found by their changed pages
    key_ranges   the key ranges of a table that those pages can hold

Reads volumes and remote logs, and changes neither.
"""
