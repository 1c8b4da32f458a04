"""Online experiments: buckets, effects with intervals, power, channels, interleaving
(docs/ab.md).
"""

from sidar.ab.assign import agreement, bucket, buckets

__all__ = ["agreement", "bucket", "buckets"]
