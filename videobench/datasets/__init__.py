"""Videos on disk to batches of clips: lists, sampling, decoding, cropping, augmentation, loading."""
