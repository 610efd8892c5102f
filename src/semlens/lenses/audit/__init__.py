"""Audits: whether classes rely on valid or on spurious concepts."""
