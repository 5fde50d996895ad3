"""Floor 2: frames of remote logs that were fetched, kept in files of bounded size.

    page_cache   the frames by log, segment and number
    arena        one file of frames, mapped for reading
    space        the bound that all logs of a data directory share, and what is evicted

Everything in it can be fetched again: a cache that is deleted costs requests, and nothing else.
"""
