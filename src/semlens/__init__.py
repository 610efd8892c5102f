"""semlens: search, describe and audit what a vision model has learned.

The names of this module stand in ``__init__.pyi``, each once; they are loaded on first use, so
that ``import semlens`` is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
