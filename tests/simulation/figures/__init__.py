"""The figures of the resilience specification and the claims of the field, reproduced by the engine: `make figures`."""
