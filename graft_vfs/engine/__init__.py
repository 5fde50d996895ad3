"""Floor 9: the composition root. One engine is one open data directory.

    graft      `Graft`, the facade whose verbs Python, SQL and the command line call
    config     settings: arguments, environment and file, in this order of precedence
    autosync   the thread that pushes and pulls at an interval
    signals    what SIGTERM and SIGHUP still push

May import everything below; the VFS, the command line and the integrations import it. It owns what
has a lifetime: catalog, store, caches, volumes and threads, and closes them in the opposite order.
"""
