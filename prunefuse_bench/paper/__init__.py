"""The published tables of the PruneFuse paper as data, what its cost rule makes of them, and runs beside them."""

from prunefuse_bench.paper.published import PublishedTable, published_table, published_tables

__all__ = ["PublishedTable", "published_table", "published_tables"]
