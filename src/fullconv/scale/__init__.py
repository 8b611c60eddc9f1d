"""Batch prediction of millions of images on many processors and machines, with Ray Data."""

from fullconv.scale.batch import BatchJob, BatchSummary, run_batch

__all__ = ["BatchJob", "BatchSummary", "run_batch"]
