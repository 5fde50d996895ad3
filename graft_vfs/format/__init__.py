"""Floor 1: the bytes of remote objects. Knows no store, no file and no volume."""
