"""The deciding heart: sans-IO. Takes `now` and `rng`, returns commands."""
