"""Prompts computed once for their whole group: packed rows, their attention, their scores.

It knows models and tensors, not trainers: what a group is, and when it is learnt from, stands in
`policy`. The idea is PrefixGrouper's (arXiv 2506.05433); here it is done without touching a model's
code, with the vision tower, multimodal positions and gradient checkpointing included.
"""
