"""graft_vfs."""
