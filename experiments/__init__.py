"""Programs: each reads its arguments, loops and writes."""

import os

# Only tokenizers are used of transformers; that PyTorch is absent is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
