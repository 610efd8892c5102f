"""Build scripts of the bundled demo world: images, subject model and small foundation model.

Run ``python -m demo_world --help`` from the root of the checkout. Nothing here is part of the
installed package, which contains only the small files that ``pack`` writes.
"""
