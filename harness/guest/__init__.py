"""What runs inside the guest: the agent, the wire format, the loaders.

These modules are copied into the guest image and run there on a bare interpreter: they import only the standard
library and each other, nothing else. The host imports those alone that are pure: calls, wire, steps, and the API's asm,
btf and uapi.
"""
