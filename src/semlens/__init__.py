"""semlens: search, describe and audit what a vision model has learned.

The public names are listed in ``__init__.pyi`` and loaded on first use, which keeps
``import semlens`` fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
