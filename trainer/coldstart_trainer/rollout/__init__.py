"""Completions sampled by vLLM, and the checks that its prompts, weights and numbers are ours."""
