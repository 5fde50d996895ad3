"""Object stores: the one medium that a remote log is made of.

A store keeps immutable or overwritten objects under text keys. `base` defines what every store
guarantees; `memory`, `directory` and `s3` implement it; `probe` tests whether a store really
refuses to create a key twice. Stores do not interpret the bytes. `S3Store` is imported from
`graft_vfs.store.s3`, so that only programs with an S3 remote pay for it at start-up.
"""

from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    StoreCounters,
    StoreCounts,
)
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.store.memory import MemoryStore
from graft_vfs.store.probe import check_conditional_writes
from graft_vfs.store.wrapper import WrapperStore

__all__ = [
    "GET_LIMIT_BYTES",
    "DirectoryStore",
    "MemoryStore",
    "ObjectInfo",
    "ObjectStore",
    "PutOutcome",
    "StoreCounters",
    "StoreCounts",
    "WrapperStore",
    "check_conditional_writes",
]
