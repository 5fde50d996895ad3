"""Floor 9: the composition root. One engine is one open data directory.

    config     settings: arguments, environment and file, in this order of precedence
    context    opens everything with a lifetime: catalog, store, caches, volumes and threads
    autosync   the thread that pushes and pulls at an interval
    signals    the final push at SIGTERM and SIGHUP
    status     an engine's reports on its volumes, without requests
    moving     creating volumes, and pointing tags at them
    syncing    recording how a sync ended, for the status; one run of autosync
    opened     opening and closing an engine, and the volumes of tags
    reading    the verbs that change nothing
    graft      `Graft`, the facade with the verbs for Python, SQL and the command line

May import everything below; the VFS, the command line and the integrations import it. `Graft` owns
what it opens, and closes it in reverse order.
"""
