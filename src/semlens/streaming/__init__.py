"""Streaming statistics with an associative, order-free merge."""
