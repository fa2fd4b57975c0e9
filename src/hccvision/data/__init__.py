"""Data: folders to samples, samples to batches, and splits that don't leak."""
