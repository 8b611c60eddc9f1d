"""Millions of pictures on many processors and machines, by Ray Data."""

from fullconv.scale.batch import BatchJob, BatchTally, run_batch

__all__ = ["BatchJob", "BatchTally", "run_batch"]
