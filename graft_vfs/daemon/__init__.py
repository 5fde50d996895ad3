"""A daemon that keeps every database of a data directory on the remote: `graft sync --every`.

Its modules: `daemon` finds the volumes with tags and passes them to autosync; `syncs` is one sync
of one volume, which opens it only if it has changed; `remote` reduces an outage to one line and one
request at a time; `rounds` detects when all volumes are synced; `events` is the log; `endpoint`,
`metrics` and `heartbeat` serve monitors.
"""
