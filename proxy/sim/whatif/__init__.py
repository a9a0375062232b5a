"""What would have happened: `outrider simulate`, `outrider replay` and the figures, all on one model of the engine."""
