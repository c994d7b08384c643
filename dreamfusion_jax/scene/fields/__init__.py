"""The scene as a function: density and albedo at a blurred point.

A field is a frozen, hashable description; its parameters are a pytree that `init` makes and
`__call__` takes. The renderer knows fields only by `protocol.Field`: a new field is one new file.
"""
