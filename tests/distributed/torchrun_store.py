"""Makes a store in processes that torchrun started; prints what the first says."""

import os

from store_frames import frames, same

from gfmpot.data.formats.distributed import DistributedStore

try:
    DistributedStore(frames())
except OSError as error:
    if os.environ["RANK"] == "0":
        print(error)
with DistributedStore(frames(), width=1) as store:
    same(store.subset([3, 1]), frames().subset([3, 1]))
