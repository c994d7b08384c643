"""Pages that open from disk, without a server and without a network: a run's, and a gallery."""
