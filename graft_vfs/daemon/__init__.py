"""A daemon that keeps every database of a data directory on the remote: `graft sync --every`.

Of its modules, `daemon` finds the volumes that tags name and hands them to autosync; `syncs` is one
sync of one volume, which opens it only if it has changed; `remote` makes an outage one line and one
request at a time; `rounds` says when all volumes were found synced; `events` is its log,
`endpoint`, `metrics` and `heartbeat` are what monitors hear.
"""
