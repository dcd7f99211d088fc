"""Coldstart: train vision-language models that reason, from one run.yaml.

This package is the contract and all that needs neither a cluster nor an accelerator.
"""
