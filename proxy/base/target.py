"""The unit with a breaker, a budget, a cool-down and latency histograms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Provider + model + credential. Hashable: it is the key of everything that outlives a request."""

    provider: str
    """Name of the provider entry in the YAML."""
    model: str
    """The name the provider is called with; empty for passthrough calls that name no model."""
    credential: str = ""
    """Fingerprint of a caller's own key (never the key); empty for the sidecar's own credential."""

    @property
    def name(self) -> str:
        """``provider/model``, the name used in headers, traces and metrics."""
        return f"{self.provider}/{self.model}" if self.model else self.provider
