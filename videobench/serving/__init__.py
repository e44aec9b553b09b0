"""Predictions over HTTP: uploads, decoders in processes of their own, batches across requests, a page."""
