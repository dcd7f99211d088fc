"""Responses of a model to rows with vLLM's offline engine, for evaluation; nothing is trained."""
