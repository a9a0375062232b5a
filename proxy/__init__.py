"""Outrider: a reliability sidecar for LLM calls."""

__version__ = "0.1.0"
