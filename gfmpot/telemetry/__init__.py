"""What a run tells of itself: times of its parts, use of its devices, and where the records go."""

from gfmpot.telemetry.ranks import RankTimes
from gfmpot.telemetry.records import JsonLines, read_records
from gfmpot.telemetry.regions import Regions
from gfmpot.telemetry.samplers import Sampler
from gfmpot.telemetry.sinks import Sink, SinkConfig, Sinks, open_sinks
from gfmpot.telemetry.tables import region_record, region_table
from gfmpot.telemetry.tree import RegionTime

__all__ = [
    "JsonLines",
    "RankTimes",
    "RegionTime",
    "Regions",
    "Sampler",
    "Sink",
    "SinkConfig",
    "Sinks",
    "open_sinks",
    "read_records",
    "region_record",
    "region_table",
]
