"""Scoring of pools that no machine holds: shard by shard, batch by batch, with nothing kept but the best so far."""

from prunefuse_bench.streaming.network import NetworkScorer
from prunefuse_bench.streaming.scoring import Scorer, StreamChoice, score_stream
from prunefuse_bench.streaming.selection import Shortlist, lot_of
from prunefuse_bench.streaming.shards import ImageFolderShard, LinesShard, ParquetShard, Shard, image_folder_shards

__all__ = [
    "ImageFolderShard",
    "LinesShard",
    "NetworkScorer",
    "ParquetShard",
    "Scorer",
    "Shard",
    "Shortlist",
    "StreamChoice",
    "image_folder_shards",
    "lot_of",
    "score_stream",
]
