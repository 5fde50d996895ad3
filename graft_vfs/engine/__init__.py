"""Floor 9: the composition root. One engine is one open data directory.

    config     settings: arguments, environment and file, in this order of precedence
    context    opens what has a lifetime: catalog, store, caches, volumes and threads
    autosync   the thread that pushes and pulls at an interval
    signals    what SIGTERM and SIGHUP still push
    status     what an engine says of its volumes without a request
    moving     making volumes, and pointing tags at them
    syncing    how a sync ended, for the status; what a run of autosync does
    graft      `Graft`, the facade whose verbs Python, SQL and the command line call

May import everything below; the VFS, the command line and the integrations import it. `Graft`
owns what was opened, and closes it in the opposite order.
"""
