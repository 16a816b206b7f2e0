"""Measures the tokens per second of the data pipeline, without a network."""

import time

from benchmarks import common
from textdiffusion.data.pipeline import DataConfig, open_data, train_iterator

BATCHES = 3000


def measure() -> dict[str, object]:
  config = DataConfig(batch_size=common.BATCH, length=common.LENGTH)
  data = open_data(config)
  batches = train_iterator(data.train, config.batch_size, config.seed)
  next(batches)  # Starts the threads.
  began = time.perf_counter()
  for _ in range(BATCHES):
    next(batches)
  spent = time.perf_counter() - began
  tokens = BATCHES * common.BATCH * common.LENGTH
  return {'batches': BATCHES, 'tokens_per_s': tokens / spent}


if __name__ == '__main__':
  common.main('data', measure)
