"""Records as files to publish, and files of others as records: nothing in them is trusted."""

from prunefuse_bench.publishing.archives import Refused
from prunefuse_bench.publishing.merging import Accepted, Merged, merge
from prunefuse_bench.publishing.submission import pack
from prunefuse_bench.publishing.verification import Submission, Summary, verify

__all__ = ["Accepted", "Merged", "Refused", "Submission", "Summary", "merge", "pack", "verify"]
