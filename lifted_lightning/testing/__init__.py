"""Contracts for what people write of their own, for `lifted check` and tests: ``assert not check_loss(loss).failed``.

The names stand in ``__init__.pyi``; each brings what it needs when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
