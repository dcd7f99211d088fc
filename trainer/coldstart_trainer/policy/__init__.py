"""GRPO's trainer in layers on TRL's: what is sampled in groups, and how completions are scored."""
