"""Floor 4: the remote half of a database.

    page_table    which source has the newest image of each page
    source        frames of one object, and their names in the page cache
    log_view      the pages of a remote log as of one LSN, fetched on demand
    logs          the remote logs that this data directory knows
    remote_view   the interface of a log view and of an absent base

It may import remote logs and the page cache. Every returned page was verified by its checksum.
"""
