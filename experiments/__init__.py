"""Programs: each reads its arguments, loops and writes."""
