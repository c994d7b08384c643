"""How fast each part of a step is, against what the same machine can do at best."""
