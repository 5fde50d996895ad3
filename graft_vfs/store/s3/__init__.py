"""A store in a bucket of Amazon S3, or of anything that speaks its protocol.

`store` has the verbs. Below it, `calls` retries and times them, `reading` reads objects and
listings, `upload` sends large objects, `answers` interprets a server's responses, `exchange` and
`connection` track how much of a request was sent, and `client` and `credentials` adapt boto3.
"""

from graft_vfs.store.s3.store import S3Store
from graft_vfs.store.s3.upload import PART_BYTES

__all__ = ["PART_BYTES", "S3Store"]
