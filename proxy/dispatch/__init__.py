"""The hot path: drives the engine with asyncio, runs its commands, feeds outcomes back."""

from proxy.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
