"""The Open Inference Protocol, version 2: somebody else's contract, which the service answers beside its own."""
