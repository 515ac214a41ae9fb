"""Training on tensors that have shapes and no content."""
