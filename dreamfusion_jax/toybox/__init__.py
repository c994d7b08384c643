"""The embedded world: procedural objects, captions, and the renderer that knows the truth."""
