"""Leaderboards from records."""

from prunefuse_bench.report.leaderboard import Leaderboard, write_leaderboard

__all__ = ["Leaderboard", "write_leaderboard"]
