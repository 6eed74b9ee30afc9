"""The guides, and what builds the API reference."""
