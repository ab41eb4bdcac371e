"""A research template for deep metric learning on PyTorch Lightning."""

__version__ = "0.1.0"
