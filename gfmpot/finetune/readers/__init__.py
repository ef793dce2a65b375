"""One published downstream dataset, or one generic format, per file."""
