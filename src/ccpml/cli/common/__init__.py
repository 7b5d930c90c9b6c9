"""What the verbs share: parsers, checks before work starts, and the sentences of errors."""
