"""Floor 1: the bytes of remote objects. Independent of stores, files and volumes."""
