"""Which command a word means: groups for the help, aliases, and words of other programs."""

from __future__ import annotations

GROUPS = {
    "Start a database": "demo new import clone fork",
    "Use it and look at it": "shell status tags volumes info show log diff bisect du",
    "Synchronise it with a remote": "push pull rebase fetch hydrate audit sync remote",
    "Take out its content or a past state": "export restore revert checkout tag",
    "Go back to commits that it left": "branches switch branch",
    "Set up, check and repair": "config doctor fsck adopt rm completion",
    "Keep it small": "maintain retention expire gc",
}
"""The groups of the help, in their order. A command that is in none is listed last."""

ALIASES = {
    "create": "new",
    "databases": "status",
    "delete": "rm",
    "list": "tags",
    "ls": "tags",
    "remotes": "remote",
    "remove": "rm",
    "compact": "maintain",
    "undo": "revert",
    "st": "status",
}
"""What fingers type that know git or litestream."""

ELSEWHERE = {
    "add": "each SQLite transaction is a commit already; `graft push TAG` publishes them",
    "commit": "each SQLite transaction is a commit already; `graft push TAG` publishes them",
    "merge": "`graft rebase TAG` merges what the remote has; see `graft help two-writers`",
    "replicate": "`graft push TAG` publishes commits; `graft help operations` explains autosync",
    "reset": "`graft pull TAG --strategy reset` follows the remote; see `graft help history`",
}
"""Commands of other programs that have no like here, and what does their work."""
