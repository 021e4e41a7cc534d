"""The contract: messages, services, and the pure arithmetic that every side must do alike.

Nothing here knows a room, a socket or a clock. `tensors` turns arrays into messages and back, `steps` names steps,
`indices` derives everything random from those names, `transitions` assembles what was logged into what is learned
from, `manifests` and `deployments` read and write what travels through the registry.
"""
