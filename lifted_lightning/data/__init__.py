"""Data: image tables, the pixel cache, samplers and augmentation."""
