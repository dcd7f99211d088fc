"""Coldstart: train vision-language models that reason, from one run.yaml.

This package is the contract and all that needs neither a cluster nor an accelerator.
"""

__version__ = "0.1.0"
"""The version of the package, of its images and of the chart."""
