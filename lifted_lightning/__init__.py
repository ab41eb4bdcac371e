"""A research template for deep metric learning on PyTorch Lightning.

The public names stand in ``__init__.pyi``, once each, and stay as they are from version to version; each is to be had
as ``lifted_lightning.NAME``. Importing the package imports nothing else: a name brings what it needs when first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
