"""Admission control for Django Channels: one connection limit for all workers, 1013 for the overflow."""

__version__ = "0.1.0"
