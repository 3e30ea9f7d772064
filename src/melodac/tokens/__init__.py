"""Codes as data: vocabulary, delay patterns, the store, windows and batches."""
