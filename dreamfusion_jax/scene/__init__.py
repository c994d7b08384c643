"""The scene that is trained and how it is drawn: cameras, lights, fields and the renderer."""
