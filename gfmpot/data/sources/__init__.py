"""Published datasets, one file each; see :class:`gfmpot.data.source.Source`."""
