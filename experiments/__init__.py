"""Programs: each reads its arguments, loops and writes."""

import gc
import os

# Imports and traces make many objects and little garbage; looking for it takes a seventh of the
# time until a program's help is there.
gc.set_threshold(500_000, 20, 100)

# Only tokenizers are used of transformers; that PyTorch is absent is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
