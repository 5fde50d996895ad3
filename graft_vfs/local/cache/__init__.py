"""Floor 2: fetched frames of remote logs, kept in files of bounded size.

    page_cache   the frames by log, segment and number
    arena        one file of frames, mapped for reading
    space        the size limit that all logs of a data directory share, and eviction

Everything can be fetched again: losing the cache costs requests and nothing else.
"""
