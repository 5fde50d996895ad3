"""Makes `python -m graft_vfs.cli` the same as `graft`."""

from __future__ import annotations

from graft_vfs.cli import main

if __name__ == "__main__":
    main(prog_name="graft")
