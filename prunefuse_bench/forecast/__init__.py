"""What a suite will cost, before anything is trained: cells, FLOPs by both counts, and an estimate of the seconds."""

from prunefuse_bench.forecast.cells import CellForecast, PartForecast, forecast_part
from prunefuse_bench.forecast.pages import NOT_INCLUDED, as_data, part_sheet, total_sheet

__all__ = ["NOT_INCLUDED", "CellForecast", "PartForecast", "as_data", "forecast_part", "part_sheet", "total_sheet"]
