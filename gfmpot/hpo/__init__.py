"""Search for hyper-parameters, and training of the best: :mod:`gfmpot.hpo.campaign`, :mod:`gfmpot.hpo.promotion`."""
