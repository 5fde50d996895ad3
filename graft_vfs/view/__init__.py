"""Floor 4: the remote half of a database.

    page_table    which source holds the newest image of each page
    source        frames of one object, and their names in the page cache
    log_view      the pages of a remote log as of one LSN, fetched when they are read
    logs          the remote logs that this data directory knows
    remote_view   what a snapshot asks of either a log view or an absent base

It may import remote logs and the page cache. A page that it returns was verified by its checksum.
"""
