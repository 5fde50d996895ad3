"""A store in a bucket of Amazon S3, or of anything that speaks its protocol.

`store` has the verbs. Below it, `calls` repeats and times them, `reading` reads objects and
listings, `upload` sends what is large, `answers` says what a server's answers prove, `exchange` and
`connection` know what of a request has left, `client` and `credentials` make boto3 do as we need.
"""

from graft_vfs.store.s3.store import S3Store
from graft_vfs.store.s3.upload import PART_BYTES

__all__ = ["PART_BYTES", "S3Store"]
