"""The Kubernetes objects of a run's attempts: built from the run, read back; nothing is called.

`backend.BACKENDS` is the way in. Whoever creates, lists and deletes lives in the operator.
"""
